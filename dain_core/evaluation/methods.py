"""What makes the frames that are evaluated: our models, plain ways to compare them with, and anyone's in a file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cuda_ext import flow_projection
from dain_core.evaluation.pictures import EvaluationError
from dain_core.runtime.engine import Interpolator
from dain_core.weights.files import WeightsError

#: Two frames (1, 3, H, W) in [0, 1] and times between them -> the frames then, (len(times), 3, H, W).
Interpolate = Callable[[Tensor, Tensor, Sequence[float]], Tensor]


@dataclass(frozen=True)
class Method:
    """A way to make the frames between two.

    Attributes:
        name: as tables show it.
        interpolate: see `Interpolate`; tensors are on the device that is evaluated on.
    """

    name: str
    interpolate: Interpolate

    def frames(self, first: Tensor, last: Tensor, times: Sequence[float], what: str) -> Tensor:
        """The frames as 8-bit files would hold them: (len(times), 3, H, W), multiples of 1/255.

        Raises:
            EvaluationError: the method fails, or gives what is no picture; `what` names the sample.
        """
        try:
            with torch.inference_mode():
                made = self.interpolate(first, last, times).to(first)
        except Exception as error:  # whatever it is, of a network, of OpenCV or of a plug-in
            reason = f"{type(error).__name__}: {error}"
            raise EvaluationError(
                f"{self.name}: fails on {what} ({reason}): mend it or leave it out."
            ) from error
        expected = (len(times), *first.shape[1:])
        if made.shape != expected:
            raise EvaluationError(
                f"{self.name}: gives {tuple(made.shape)} for {what}, not {expected}: mend the method."
            )
        if not made.isfinite().all():
            raise EvaluationError(
                f"{self.name}: the frame for {what} holds NaN or infinity: check its weights."
            )
        return (made.clamp(0, 1) * 255).round() / 255


#: Methods that come by name.
PLAIN = ("average", "dis")


def average(first: Tensor, second: Tensor, time: float) -> Tensor:
    """The mean of the two frames, weighted by nearness."""
    return (1 - time) * first + time * second


def dense_inverse_search(first: Tensor, second: Tensor, time: float) -> Tensor:
    """OpenCV's DIS flow (Kroeger et al., 2016), medium preset, both ways; projected to `time`, warped and blended."""
    cv2: Any = importlib.import_module("cv2")  # an optional package
    one, two = [cv2.cvtColor(_bytes(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    result = torch.zeros_like(first)
    for frame, grays, share in ((first, (one, two), time), (second, (two, one), 1 - time)):
        flow = torch.from_numpy(search.calc(*grays, None)).permute(2, 0, 1)[None].contiguous().to(first)
        projected = flow_projection(share * flow, torch.ones_like(flow[:, :1]), True)
        result += (1 - share) * _warp(frame, projected)
    return result


def plain(name: str) -> Method:
    """A method by name.

    Raises:
        EvaluationError: there is none, or what it needs is not installed.
    """
    if name == "average":
        return Method(name, _each(average))
    if not has_opencv():
        raise EvaluationError(
            "dis: DIS flow is OpenCV's, which is not installed: pip install opencv-python-headless."
        )
    return Method(name, _each(dense_inverse_search))


def has_opencv() -> bool:
    return importlib.util.find_spec("cv2") is not None


def model(spec: str, device: str, precision: str) -> Method:
    """One of our models from NAME or NAME=weights file.

    It bears the file's name, too, or, as all runs call their weights alike, that of the run's folder.

    Raises:
        EvaluationError: no such model, precision or device, or weights that cannot be used.
    """
    name, _, weights = spec.partition("=")
    try:
        interpolator = Interpolator.load(name, device=device, precision=precision, weights=weights or None)
    except (ValueError, WeightsError) as error:
        raise EvaluationError(f"--model {spec}: {error}") from error
    path = Path(weights).absolute() if weights else Path()
    label = path.parent.name if path.name == "weights.safetensors" else path.stem
    parts = [name, label, "" if precision == "auto" else precision]
    return Method(" ".join(part for part in parts if part), interpolator.interpolate)


def plug_in(path: Path) -> Method:
    """A Python file that defines `interpolate(first, second, time)`; its NAME, if it has one, is the method's.

    Raises:
        EvaluationError: the file cannot be imported, or lacks the function.
    """
    found = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or found is None or found.loader is None:
        raise EvaluationError(f"--method {path}: is none of {', '.join(PLAIN)}, and no Python file either.")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:  # anything can go wrong in a stranger's file, and the sentence says what
        raise EvaluationError(f"--method {path}: {type(error).__name__}: {error}") from error
    function = getattr(module, "interpolate", None)
    if not callable(function):
        raise EvaluationError(f"--method {path}: defines no function interpolate(first, second, time).")
    return Method(str(getattr(module, "NAME", path.stem)), _each(function))


def _each(function: Callable[[Tensor, Tensor, float], Tensor]) -> Interpolate:
    return lambda first, last, times: torch.cat([function(first, last, time) for time in times])


def _warp(frame: Tensor, flow: Tensor) -> Tensor:
    """`frame` at every pixel plus its flow (1, 2, H, W), bilinear; beyond the border, the border."""
    height, width = frame.shape[-2:]
    y, x = (torch.arange(size, device=frame.device, dtype=frame.dtype) for size in (height, width))
    grid = torch.stack(
        ((x + flow[0, 0] + 0.5) * 2 / width - 1, (y[:, None] + flow[0, 1] + 0.5) * 2 / height - 1), -1
    )
    return F.grid_sample(frame, grid[None], padding_mode="border", align_corners=False)


def _bytes(frame: Tensor) -> NDArray[np.uint8]:
    return (frame[0] * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
