"""The frame interpolator: weights, device and precision around the network, frame by frame, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from cuda_ext import backend as operators
from cuda_ext import flow_projection, sample, stillness
from dain_core.network.networks import build
from dain_core.runtime.backends import PRECISIONS, Source, backend_for, int8
from dain_core.runtime.backends.stages import BackendError
from dain_core.runtime.budget import Budget
from dain_core.runtime.devices import current, fastest_on_cpu, named_device
from dain_core.runtime.interrupt import Interruptible
from dain_core.runtime.memory import FrameTooLargeError, is_out_of_memory
from dain_core.runtime.profile import Profile, ProfileError
from dain_core.runtime.still import covering, filled
from dain_core.weights.files import SHIPPED, config_for
from dain_core.weights.registry import Entry, named, registry

#: (height, width) of the frames that a device warms up with. On a GPU the first runs as CUDA graphs; together they take
#: the tiles, bands and kernels of any real frame.
WARM_UP_SIZES = {"cpu": ((64, 64),), "cuda": ((64, 64), (1080, 1920), (2160, 3840))}

Given = ParamSpec("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Frame:
    """What is known of one frame: worth keeping for the next pair.

    Attributes:
        image: the frame.
        features: what the network knows.
        range: the least and the largest value of each channel, (1, 3, 1, 1), and at least 0 to 1.
        mask: what is known to stand still, (1, 1, H, W), in [0, 1].
    """

    image: Tensor
    features: Any
    range: tuple[Tensor, Tensor]
    mask: Tensor | None = None

    @property
    def size(self) -> torch.Size:
        """Height and width."""
        return self.image.shape[2:]


@dataclass(frozen=True)
class Pair:
    """What is known of two neighbouring frames, for any time between them.

    Attributes:
        still: how much the picture between them is what both of them show, (1, 1, H, W), in [0, 1].
    """

    first: Frame
    second: Frame
    motion: Any
    still: Tensor


class Pending:
    """A new frame that the device is still making."""

    def __init__(self, frame: Tensor, checksum: Tensor, recompute: Callable[[], Tensor]) -> None:
        self._frame, self._recompute = frame, recompute
        # Into pinned memory, without waiting.
        self._checksum = checksum.to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if frame.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(frame.device))

    def result(self) -> Tensor:
        """Wait for the frame; make it again in float32 if it is not finite.

        Returns:
            (1, 3, H, W), float32: in [0, 1], or as far beyond as the two frames are.

        Raises:
            FloatingPointError: the frame is not finite, in float32 either.
        """
        if self._arrived:
            self._arrived.synchronize()
        if not math.isfinite(self._checksum.item()):
            self._frame, self._checksum = self._recompute(), torch.zeros(())
        return self._frame


def _infers(
    method: Callable[Concatenate[Interpolator, Given], Made],
) -> Callable[Concatenate[Interpolator, Given], Made]:
    """The method without gradients, and on the interpolator's device: graphs are captured on the current one."""

    @wraps(method)
    def run(self: Interpolator, *args: Given.args, **kwargs: Given.kwargs) -> Made:
        with torch.inference_mode(), current(self.device):
            return method(self, *args, **kwargs)

    return run


class Interpolator:
    """A model on a device, ready to interpolate.

    One thread at a time may call `frame`, `pair` and `submit`. Any thread may ask a `Pending` for its result.

    Attributes:
        model_name: what the model is called in the registry.
        device: where frames must be, and results are.
        precision: one of `PRECISIONS`. Below "fp32", coordinates and pixels stay float32.
        recomputed: how many results below "fp32" were not finite, and were made again in float32.
        replanned: how often a GPU's memory ran out, and frames were made in smaller parts from then on.
    """

    def __init__(
        self, source: Source, device: torch.device, precision: str, budget: Budget, runtime: str = "torch"
    ) -> None:
        self.model_name = source.entry.name
        self.device = device
        self.precision = precision
        self.recomputed = 0
        self._source = source
        self._budget = budget
        self._runtime = runtime
        # What is known of frames and pairs is the network's own affair.
        with current(device):
            make = backend_for(source.config, device, runtime).make
            self._stages = make(source, device, precision, budget)

    @classmethod
    def load(
        cls,
        model: str = "auto",
        *,
        device: str = "auto",
        precision: str = "auto",
        weights: str | Path | None = None,
        models: Mapping[str, Entry] | None = None,
        memory: int | Budget | None = None,
        backend: str = "auto",
        exports: Path | None = None,
        eight_bits: Collection[str] | None = None,
        blocks: Mapping[str, str] | None = None,
        profile: Profile | None = None,
    ) -> Interpolator:
        """Load a model.

        Args:
            model: a name of `models`; "auto" is dain-refined on a GPU and dain-lite on a CPU.
            device: "cpu", "cuda", "cuda:1", …, or "auto": see `named_device`.
            precision: "fp32", "fp16", "bf16" or, on compute capability 9.0, "fp8", or, on a CPU with VNNI or AMX,
                "int8"; "auto" is fp16 on a GPU and, on a CPU, bf16 if it has AMX, else fp32.
            weights: a file of the network called `model`, to load instead of the weights of that name.
            models: what can be loaded, see `dain_core.weights.registry`; None is what comes with the project.
            memory: bytes of a GPU's memory that may be used, or a `Budget` that several interpolators of one GPU share.
                None is four fifths of what this process can have when it meets a new size of frames. Frames that need
                more are made in parts, which changes nothing of the result.
            backend: "torch", which "auto" is, or "onnxruntime": models that were exported, on a device of ONNX
                Runtime's. "onnxruntime:NAME" names its execution provider, such as OpenVINO.
            exports: the folder of exported models, NAME/ of each.
            eight_bits: the blocks that "fp8" or "int8" computes in eight bits, such as "rectify"; None is
                `eight_bit_blocks`.
            blocks: the precision of each block by name, in place of `precision` and `eight_bits`. On a GPU they may
                differ by eight bits only.
            profile: what `dain tune` wrote; the model that it is of has its `blocks`.

        Raises:
            CalibrationError: "fp8" or "int8" of a model that was not calibrated.
            ProfileError: the profile is of another class of device, of other weights, or for another backend.
            ValueError: no such model, device or precision, or a GPU that the operators are not built for.
            WeightsError: the weights cannot be read or do not fit.
        """
        runtime, _, provider = backend.partition(":")
        runtime = "torch" if runtime == "auto" else runtime
        if runtime == "onnxruntime":
            device, precision = _for_onnxruntime(device, precision)
        elif runtime != "torch":
            raise ValueError(f"backend {backend!r} is none of auto, torch, onnxruntime, onnxruntime:NAME")
        place = named_device(device)
        if model == "auto":
            model = "dain-lite" if place.type == "cpu" else "dain-refined"
        entry = _entry(model, weights, models or registry())
        if profile is not None:
            if runtime != "torch":
                raise ProfileError(
                    f"a profile chooses precisions for PyTorch, which the backend {runtime} does without: leave the "
                    "profile out (DAIN_PROFILE), or the backend at auto (DAIN_BACKEND)"
                )
            profile.check_device(place)
            if profile.model == entry.name:
                profile.check_weights(entry)
                blocks = profile.blocks
        if blocks is not None:
            precision, eight_bits = _by_block(entry, blocks, place)
        if precision == "auto":
            precision = "fp16" if place.type == "cuda" else fastest_on_cpu()
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is none of auto, {', '.join(PRECISIONS)}")
        if runtime == "torch":
            _check_eight_bits(precision, place)
        budget = memory if isinstance(memory, Budget) else Budget(memory)
        own = blocks if place.type == "cpu" else None
        source = Source(entry, exports or Path("exports"), provider, eight_bits, own)
        return cls(source, place, precision, budget, runtime)

    @property
    def backend(self) -> str:
        """Which operators run: "cuda" for the compiled kernels, "cpu" for the reference, or "onnxruntime"."""
        if self._runtime != "torch":
            return self._runtime
        return operators() if self.device.type == "cuda" else "cpu"

    @property
    def replanned(self) -> int:
        return self._stages.replanned

    def warm_up(self) -> None:
        """Interpolate as real frames are, so that none pays for loading kernels, and what fails does so now.

        A frame that is too large for the memory that may be used is passed over: smaller videos can be made still.
        """
        sizes = WARM_UP_SIZES[self.device.type]
        for height, width in sizes:
            blank = torch.zeros((1, 3, height, width), device=self.device)
            try:
                for _ in range(2 if self.device.type == "cuda" else 1):  # the second time captures graphs
                    self.interpolate(blank, blank, [0.5])
            except FrameTooLargeError:
                if (height, width) == sizes[0]:
                    raise
        self._stages.release()

    def interruptible(self, check: Callable[[], None]) -> AbstractContextManager[object]:
        """While this lasts, `check` is called several times a second on a CPU, where a frame takes seconds.

        It may raise to stop. On a GPU frames are soon made, and nothing is called.
        """
        return Interruptible(check) if self.device.type == "cpu" else nullcontext()

    @_infers
    def frame(self, rgb: Tensor, mask: Tensor | None = None) -> Frame:
        """The work that a frame needs once, whatever pairs it is in.

        Args:
            rgb: (1, 3, H, W), of a floating dtype, on `device`; any size from 1x1. In [0, 1] but for colours that a
                screen does not have, such as whiter than white: see `dain_core.runtime.color`.
            mask: 1 where the picture is known to stand still, (1, 1, H, W), on `device`; see `still`.

        Raises:
            ValueError: the wrong shape, dtype or device; a FrameTooLargeError if memory does not suffice.
        """
        if rgb.dim() != 4 or rgb.shape[:2] != (1, 3) or rgb.numel() == 0:
            raise ValueError(f"a frame is (1, 3, height, width), got {tuple(rgb.shape)}")
        if not rgb.is_floating_point():
            raise ValueError(f"a frame holds floats in [0, 1], got {rgb.dtype}: divide 8-bit values by 255")
        if rgb.device != self.device:
            raise ValueError(
                f"the frame is on {rgb.device}, the model on {self.device}: move the frame there"
            )
        image = rgb.float().contiguous(memory_format=torch.channels_last)
        lowest, highest = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
        seen = (
            image
            if mask is None
            else filled(image, covering(mask)).contiguous(memory_format=torch.channels_last)
        )
        return Frame(image, self._stages.features(seen), (lowest.clamp(max=0), highest.clamp(min=1)), mask)

    @_infers
    def pair(self, first: Frame, second: Frame) -> Pair:
        """The work that two neighbouring frames need once, whatever the times between them.

        Raises:
            ValueError: frames of different sizes.
        """
        if first.size != second.size:
            sizes = " and ".join(f"{width}x{height}" for height, width in (first.size, second.size))
            raise ValueError(f"the two frames must have one size, got {sizes}: scale one of them first")
        motion = self._stages.motion(first.features, second.features)
        still = self._stillness(first, second, motion)
        for frame in (first, second):
            still = still if frame.mask is None else still.maximum(frame.mask)
        return Pair(first, second, motion, still)

    @_infers
    def submit(self, pair: Pair, time: float) -> Pending:
        """Have the frame at `time` between the pair's first frame (0) and its second (1) made.

        On a GPU this returns before the frame is there: give it its next work before asking for the `result`.

        Raises:
            ValueError: a time that is not between 0 and 1.
        """
        if not 0 < time < 1:
            raise ValueError(f"the time must lie between the frames, 0 < t < 1, got {time}")
        first, second = pair.first.features, pair.second.features
        moment = torch.full((), time, device=self.device)
        output, checksum = self._stages.synthesis(first, second, pair.motion, moment)
        one, two = (
            replace(frame, features=None) for frame in (pair.first, pair.second)
        )  # features are large
        output = output.lerp(one.image.lerp(two.image, time), pair.still)
        (low_1, high_1), (low_2, high_2) = pair.first.range, pair.second.range
        frame = output.clamp(low_1.minimum(low_2), high_1.maximum(high_2))
        return Pending(frame, checksum, lambda: self._recompute(one, two, time))

    @_infers
    def moved(self, pair: Pair, first: Tensor, second: Tensor, time: float) -> Tensor:
        """Another plane of the pair's frames, such as alpha, at `time`: it moves as the picture does.

        Args:
            first, second: the plane of each frame, (1, 1, H, W), float32, on `device`.

        Returns:
            (1, 1, H, W), within the range of both.
        """
        there, back = (flow.float() for flow in pair.motion.flows)
        near = torch.ones_like(first)
        warped = (
            sample(plane, flow_projection(share * flow, near, True))
            for plane, flow, share in ((first, there, time), (second, back, 1 - time))
        )
        plain = first.lerp(second, time)
        moved = torch.lerp(*warped, time)  # type: ignore[call-overload]
        return torch.where(moved.isfinite(), moved, plain).lerp(plain, pair.still)

    def _stillness(self, first: Frame, second: Frame, motion: Any) -> Tensor:
        """`stillness`, which no plan of memory knows: where memory runs out, graphs make room, once."""
        inputs = first.features.image, second.features.image, motion.flows
        try:
            return stillness(*inputs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._stages.release()
        return stillness(*inputs)

    def between(self, pair: Pair, time: float) -> Tensor:
        """The frame at `time` between the pair's first frame (0) and its second (1): see `submit`, `Pending.result`."""
        return self.submit(pair, time).result()

    def interpolate(self, first: Tensor, second: Tensor, times: Sequence[float]) -> Tensor:
        """The frames at `times` between two frames (1, 3, H, W): (len(times), 3, H, W), see `Pending.result`."""
        pair = self.pair(self.frame(first), self.frame(second))
        pending = [self.submit(pair, time) for time in times]
        return torch.cat([first[:0].float(), *(frame.result() for frame in pending)])

    @cached_property
    def _exact(self) -> Interpolator:
        """The same network in float32."""
        return Interpolator(replace(self._source, blocks=None), self.device, "fp32", self._budget)

    def _recompute(self, first: Frame, second: Frame, time: float) -> Tensor:
        """The frame in float32. Threads that ask for results wait for each other here."""
        if self.precision == "fp32":
            raise FloatingPointError(
                "the interpolated frame is not finite in float32: check the input frames and the weights for NaN"
            )
        with self._budget.turn(self._stages):  # nobody else loads the network, or uses its graphs, meanwhile
            self.recomputed += 1
            exact = self._exact
            with self._budget.turn(exact._stages):
                pair = exact.pair(*(exact.frame(frame.image, frame.mask) for frame in (first, second)))
                return exact.between(pair, time)


def _by_block(entry: Entry, blocks: Mapping[str, str], device: torch.device) -> tuple[str, list[str] | None]:
    """The precision that the precisions of blocks amount to, and the blocks that it computes in eight bits.

    Raises:
        BackendError: a block has no precision, is unknown, or cannot have its precision on the device.
    """
    with torch.device("meta"):
        names = {name for name, _ in build(entry.config).named_children()}
    if names != blocks.keys():
        odd = min(names ^ blocks.keys())
        raise BackendError(
            f"the block {odd!r} "
            + ("has no precision" if odd in names else f"is none of {entry.name}")
            + f": its blocks are {', '.join(sorted(names))}"
        )
    floats, eight = ({"fp32", "bf16"}, "int8") if device.type == "cpu" else ({"fp16", "bf16", "fp32"}, "fp8")
    if unknown := set(blocks.values()) - floats - {eight}:
        raise BackendError(
            f"{device} has no precision {min(unknown)!r} for a block: choose {eight} or of {', '.join(sorted(floats))}"
        )
    chosen = [name for name, precision in blocks.items() if precision == eight]
    wide = set(blocks.values()) - {eight}
    if device.type == "cpu":
        return (eight, chosen) if chosen else ("bf16" if "bf16" in wide else "fp32", None)
    if len(wide) > 1 or (chosen and wide - {"fp16"}):
        raise BackendError(
            f"{device} computes all blocks that are not in {eight} in one precision, beside it in fp16"
        )
    return (eight, chosen) if chosen else (min(wide), None)


def _check_eight_bits(precision: str, device: torch.device) -> None:
    """Raise ValueError if a device has no instructions for a precision of eight bits."""
    if precision == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0)):
        raise ValueError(
            f"precision fp8 needs a GPU of compute capability 9.0, such as an H100, which {device} is not: "
            f"choose {'fp16' if device.type == 'cuda' else 'int8, fp32 or bf16'}"
        )
    if precision == "int8" and (device.type != "cpu" or not int8.has_instructions()):
        raise ValueError(
            f"precision int8 needs a CPU with VNNI or AMX, which {device} is not: "
            f"choose {'fp8 or fp16' if device.type == 'cuda' else 'fp32'}"
        )


def _entry(model: str, weights: str | Path | None, models: Mapping[str, Entry]) -> Entry:
    """What to load for `model`; raises UnknownModelError if there is no such model."""
    if weights is not None:
        return Entry(model, config_for(weights, model), weights if weights in SHIPPED else Path(weights))
    return named(model, models)


def _for_onnxruntime(device: str, precision: str) -> tuple[str, str]:
    """The device of the frames, and the precision; raises BackendError if they are none that ONNX Runtime has here."""
    if find_spec("onnxruntime") is None:
        raise BackendError(
            "the backend onnxruntime needs the package onnxruntime: `pip install '.[export]'` in the project's folder "
            "brings it"
        )
    if device not in ("auto", "cpu"):
        raise BackendError(
            f"the backend onnxruntime chooses its device by its provider, not by the name {device!r}: leave it at auto"
        )
    if precision not in ("auto", "fp32", "fp16", "int8"):
        raise BackendError(
            f"the backend onnxruntime has no precision {precision!r}: choose fp32, fp16 or int8"
        )
    return "cpu", "fp32" if precision == "auto" else precision
