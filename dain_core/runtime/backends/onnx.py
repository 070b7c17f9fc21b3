"""A network that `dain export onnx --form stages` wrote, run by ONNX Runtime: on a CPU, or on a device that it drives.

What one stage hands on to another stays where ONNX Runtime works. Frames are in main memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime import OrtValue
from torch import Tensor

from dain_core.runtime.backends.stages import BackendError
from dain_core.runtime.budget import Budget
from dain_core.weights.files import WeightsError
from dain_core.weights.registry import Entry, UnknownModelError

_STAGES = ("features", "motion", "synthesis")
#: Where providers keep tensors, if not in main memory.
_PLACES = {"CUDAExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}


class NotExportedError(UnknownModelError):
    """A model has no export to run: the message says how to make it."""


@dataclass(frozen=True)
class Known:
    """What is known of a frame.

    Attributes:
        image: the frame, (1, 3, H, W).
        values: what the graphs hand on, by name, with the image.
    """

    image: Tensor
    values: Mapping[str, OrtValue]


@dataclass(frozen=True)
class KnownMotion:
    """What is known of a pair of frames: what the graphs hand on, by name."""

    values: Mapping[str, OrtValue]

    @property
    def flows(self) -> tuple[Tensor, Tensor]:
        """The flow from the first frame to the second, and back, (1, 2, H, W) each."""
        there, back = (torch.from_numpy(self.values[f"flows.{way}"].numpy()) for way in (0, 1))
        return there, back


class OnnxStages:
    """The stages of an exported model.

    Args:
        folder: of the three files.
        entry: the model that they must have been made from.
        precision: that they must have.
        provider: the name of one of ONNX Runtime's execution providers, such as "OpenVINO"; "" is CUDA where it is
            there, else the CPU.
        budget: what the stages share the device with.

    Raises:
        BackendError: there is no such provider.
        NotExportedError: there are no such files.
        WeightsError: they cannot be read, or are another model's, or another precision's.
    """

    replanned = 0

    def __init__(self, folder: Path, entry: Entry, precision: str, provider: str, budget: Budget) -> None:
        provider = _provider(provider)
        frames = " --calibration FRAMES" if precision == "int8" else ""
        again = (
            f"`dain export onnx {folder} --model {entry.name} --precision {precision}{frames} --form stages`"
        )
        paths = {stage: folder / f"{stage}.onnx" for stage in _STAGES}
        if not all(path.is_file() for path in paths.values()):
            raise NotExportedError(f"there is no export of {entry.name} in {folder}: {again} makes it")
        expected = {
            "dain.weights": hashlib.sha256(entry.path.read_bytes()).hexdigest(),
            "dain.precision": precision,
        }
        self._place = _PLACES.get(provider, "cpu")
        self._sessions = {stage: _open(path, provider) for stage, path in paths.items()}
        for stage, session in self._sessions.items():
            said = {**session.get_modelmeta().custom_metadata_map}
            if {"dain.graph": stage, **expected}.items() - said.items():
                raise WeightsError(
                    f"{paths[stage]} was made from other weights than those of {entry.name}, or in another precision "
                    f"than {precision}: {again} makes it again"
                )
        self._weight_bytes = sum(path.stat().st_size for path in paths.values())
        budget.join(self)

    def features(self, image: Tensor) -> Known:
        given = OrtValue.ortvalue_from_numpy(image.contiguous().numpy(), self._place, 0)
        return Known(image, {"image": given, **self._run("features", {"image": given})})

    def motion(self, first: Known, second: Known) -> KnownMotion:
        return KnownMotion(self._run("motion", _of_both(first, second)))

    def synthesis(
        self, first: Known, second: Known, motion: KnownMotion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        moment = OrtValue.ortvalue_from_numpy(time.reshape(1).float().numpy(), self._place, 0)
        made = self._run("synthesis", {**_of_both(first, second), **motion.values, "time": moment})
        frame, checksum = (torch.from_numpy(made[name].numpy()) for name in ("frame", "checksum"))
        return frame, checksum

    def held_bytes(self) -> int:
        return self._weight_bytes

    def release(self) -> None:
        """There is nothing to let go of."""

    def _run(self, stage: str, known: Mapping[str, OrtValue]) -> dict[str, OrtValue]:
        session = self._sessions[stage]
        binding = session.io_binding()
        for each in session.get_inputs():
            binding.bind_ortvalue_input(each.name, known[each.name])
        names = [each.name for each in session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._place)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))


def _of_both(first: Known, second: Known) -> dict[str, OrtValue]:
    frames = (("first", first), ("second", second))
    return {f"{which}.{name}": value for which, frame in frames for name, value in frame.values.items()}


def _provider(name: str) -> str:
    """Return the full name of a provider that there is."""
    there = onnxruntime.get_available_providers()
    if not name:
        return next(full for full in ("CUDAExecutionProvider", "CPUExecutionProvider") if full in there)
    if (full := f"{name}ExecutionProvider") not in there:
        names = ", ".join(each.removesuffix("ExecutionProvider") for each in there)
        raise BackendError(f"the ONNX Runtime that is installed has no provider {name!r}: it has {names}")
    return full


def _open(path: Path, provider: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # The threads of the three sessions would take turns at waiting busily, beside those that read and encode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors have no base but this
        raise WeightsError(f"ONNX Runtime cannot open {path}: {error}. Export the model again") from error
    if provider not in session.get_providers():  # it warns, and takes the CPU
        name = provider.removesuffix("ExecutionProvider")
        raise BackendError(
            f"ONNX Runtime's provider {name} did not start here, for a reason that its warning gives: install the "
            "driver and libraries that it needs, or choose `onnxruntime:CPU`"
        )
    return session
