"""The methods that make frames: our models, plain methods to compare them with, and plug-ins in Python files."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuda_ext import flow_projection
from dain_core.evaluation.pictures import EvaluationError
from dain_core.network.modules.refinement import sample
from dain_core.runtime.engine import Interpolator
from dain_core.weights.files import WeightsError

#: A function of two frames, (1, 3, H, W) in [0, 1], and of times in (0, 1). It returns the frames at these times,
#: (len(times), 3, H, W).
Interpolate = Callable[[Tensor, Tensor, Sequence[float]], Tensor]


@dataclass(frozen=True)
class Method:
    """A method that makes the frames between two frames.

    Attributes:
        name: the name that tables show.
        interpolate: see `Interpolate`. Its tensors are on the device of the evaluation.
    """

    name: str
    interpolate: Interpolate

    def frames(self, first: Tensor, last: Tensor, times: Sequence[float], what: str) -> Tensor:
        """Make the frames at `times`, rounded to 8 bits.

        Args:
            first, last: the two frames, (1, 3, H, W), in [0, 1].
            times: times in (0, 1).
            what: the name of the sample for messages.

        Returns:
            (len(times), 3, H, W), multiples of 1/255 in [0, 1].

        Raises:
            EvaluationError: the method fails, or returns a wrong shape, NaN or infinity.
        """
        try:
            with torch.inference_mode():
                made = self.interpolate(first, last, times).to(first)
        except Exception as error:  # networks, OpenCV and plug-ins may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise EvaluationError(
                f"{self.name}: fails on {what} ({reason}): correct the method or leave it out."
            ) from error
        expected = (len(times), *first.shape[1:])
        if made.shape != expected:
            raise EvaluationError(
                f"{self.name}: gives {tuple(made.shape)} for {what}, not {expected}: correct the method."
            )
        if not made.isfinite().all():
            raise EvaluationError(
                f"{self.name}: the frame for {what} holds NaN or infinity: check its weights."
            )
        return (made.clamp(0, 1) * 255).round() / 255


#: The names of the plain methods.
PLAIN = ("average", "dis")


def average(first: Tensor, second: Tensor, time: float) -> Tensor:
    """Return the mean of two frames, weighted by their nearness to `time`."""
    return (1 - time) * first + time * second


def dense_inverse_search(first: Tensor, second: Tensor, time: float) -> Tensor:
    """Make a frame with OpenCV's DIS flow (Kroeger et al., 2016; medium preset).

    The flow both ways is projected to `time`. The frames are warped by it and blended.

    Args:
        first, second: (1, 3, H, W), in [0, 1].
        time: the time of the frame, in (0, 1).
    """
    cv2: Any = importlib.import_module("cv2")  # an optional package
    one, two = [cv2.cvtColor(_bytes(frame), cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    result = torch.zeros_like(first)
    for frame, grays, share in ((first, (one, two), time), (second, (two, one), 1 - time)):
        flow = torch.from_numpy(search.calc(*grays, None)).permute(2, 0, 1)[None].contiguous().to(first)
        projected = flow_projection(share * flow, torch.ones_like(flow[:, :1]), True)
        result += (1 - share) * sample(frame, projected)
    return result


def plain_method(name: str) -> Method:
    """Return the plain method called `name`, one of `PLAIN`.

    Raises:
        EvaluationError: the method needs OpenCV, which is not installed.
    """
    if name == "average":
        return Method(name, _each(average))
    if not has_opencv():
        raise EvaluationError(
            "dis: DIS flow is OpenCV's, which is not installed: pip install opencv-python-headless."
        )
    return Method(name, _each(dense_inverse_search))


def has_opencv() -> bool:
    """Return whether OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def model_method(spec: str, device: str, precision: str) -> Method:
    """Load one of our models as a method.

    The method's name has the model's name, the name of the weights file, and the precision unless it is "auto". For
    the weights of a training run it has the name of the run's folder, since all runs give their weights the same name.

    Args:
        spec: NAME or NAME=FILE of weights.
        device: the device, such as "cuda:0".
        precision: one of `dain_core.runtime.backends.PRECISIONS`, or "auto".

    Raises:
        EvaluationError: there is no such model, precision or device, or the weights cannot be used.
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


def plug_in_method(path: Path) -> Method:
    """Load a Python file as a method. The file defines `interpolate(first, second, time)`, and may define NAME.

    Raises:
        EvaluationError: the file cannot be imported, or does not define the function.
    """
    found = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or found is None or found.loader is None:
        raise EvaluationError(f"--method {path}: is none of {', '.join(PLAIN)}, and not a Python file.")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:  # a plug-in may raise anything, and the message says what
        raise EvaluationError(f"--method {path}: {type(error).__name__}: {error}") from error
    function = getattr(module, "interpolate", None)
    if not callable(function):
        raise EvaluationError(f"--method {path}: defines no function interpolate(first, second, time).")
    return Method(str(getattr(module, "NAME", path.stem)), _each(function))


def _each(function: Callable[[Tensor, Tensor, float], Tensor]) -> Interpolate:
    return lambda first, last, times: torch.cat([function(first, last, time) for time in times])


def _bytes(frame: Tensor) -> NDArray[np.uint8]:
    return (frame[0] * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
