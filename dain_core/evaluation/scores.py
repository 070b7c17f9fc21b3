"""Scores of made frames against true frames, and their summaries over clips."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dain_core.evaluation.clips import Sample
from dain_core.evaluation.metrics import interpolation_error, psnr, ssim
from dain_core.evaluation.pictures import EvaluationError

#: The PSNR of equal frames in dB. It is finite, because a mean with an infinite value would say nothing.
PSNR_OF_EQUALS = 100.0

_ALEXNET = "alexnet-owt-7be5be79.pth"


@dataclass(frozen=True)
class Metric:
    """The presentation of a score.

    Attributes:
        heading: the heading of its column.
        higher: whether a higher value is better.
        form: the format of a value.
    """

    heading: str
    higher: bool
    form: str


METRICS = {
    "psnr": Metric("PSNR dB", True, ".2f"),
    "ssim": Metric("SSIM", True, ".4f"),
    "ie": Metric("IE", False, ".2f"),
    "lpips": Metric("LPIPS", False, ".4f"),
    "vmaf_neg": Metric("VMAF NEG", True, ".1f"),
    "flicker": Metric("flicker", False, ".2f"),
    "sdr": Metric("SDR", False, ".3f"),
    "si": Metric("si-RMSE", False, ".3f"),
}


@dataclass
class Score:
    """The score of a method for one frame, or for the depth of one picture.

    Attributes:
        clip, sample: the names of the clip and of the sample or picture.
        time: the time of the frame, in (0, 1); 0 for depth.
        method: the name of the method or model.
        values: the values by the keys of METRICS.
    """

    clip: str
    sample: str
    time: float
    method: str
    values: dict[str, float] = field(default_factory=dict)


Lpips = Callable[[Tensor, Tensor], float]


def score(made: Tensor, truth: Tensor, lpips: Lpips | None, what: str) -> dict[str, float]:
    """Return the values of all metrics that need no other frame, by the keys of METRICS.

    Args:
        made, truth: the made and the true frame, (1, 3, H, W), in [0, 1].
        lpips: the LPIPS metric, or None to leave it out.
        what: the name of the sample for messages.

    Raises:
        EvaluationError: the frame is too small for a metric.
    """
    try:
        values = {"psnr": min(psnr(made, truth), PSNR_OF_EQUALS), "ssim": ssim(made, truth)}
    except ValueError as error:
        raise EvaluationError(f"{what}: {error}.") from error
    values["ie"] = interpolation_error(made, truth)
    if lpips:
        values["lpips"] = lpips(made, truth)
    return values


def load_lpips(device: torch.device) -> tuple[Lpips | None, str]:
    """Load LPIPS on AlexNet (Zhang et al., 2018). Nothing is downloaded.

    Returns:
        The metric and an empty text; or None and a sentence that says why it is left out.
    """
    if importlib.util.find_spec("lpips") is None:
        return None, "LPIPS is left out: the package lpips is not installed."
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET
    if not weights.is_file():
        return None, f"LPIPS is left out: it needs torchvision's AlexNet weights, which are not at {weights}."
    try:
        package = importlib.import_module("lpips")
    except (
        ImportError,
        RuntimeError,
    ) as error:  # torchvision, which lpips needs, raises RuntimeError if it does not fit this PyTorch
        return None, f"LPIPS is left out: the package lpips cannot be imported ({error})."
    network = package.LPIPS(net="alex", verbose=False).eval().to(device)

    @torch.inference_mode()
    def distance(made: Tensor, truth: Tensor) -> float:
        return float(network(made, truth, normalize=True))

    return distance, ""


class Flicker:
    """Measures how the error of a method changes from one frame to the next, in 8-bit levels.

    Let e[k] be the made frame minus the true frame k. Flicker is the root-mean-square of e[k] - e[k - 1], for two
    frames that follow each other in the true video. This is the change of the made frames minus the change of the true
    frames, so that flicker is dtSSD (Erofeev et al., BMVC 2015) on colours. It is zero for an error that does not
    change, which the eye forgives, and sqrt(2) times the interpolation error for an error that changes at random.

    The frames of one sample follow each other. If samples have one frame each, the frames of two samples that begin one
    frame apart follow each other.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[Sample, Tensor]] = {}

    def add(self, sample: Sample, method: str, errors: Sequence[Tensor]) -> list[float | None]:
        """Return the flicker of each frame of a sample; None where the frame before it is unknown.

        Args:
            sample: the sample. Samples must come in order.
            method: the name of the method.
            errors: for each frame, the made frame minus the true frame.
        """
        before = self._last.get(method)
        self._last[method] = sample, errors[-1]
        known = before is not None and len(errors) == 1 and sample.follows(before[0])
        previous = [before[1] if before and known else None, *errors[:-1]]
        return [
            None if old is None else _levels(new - old) for old, new in zip(previous, errors, strict=True)
        ]


@dataclass(frozen=True)
class Summary:
    """Figures of one metric over frames.

    Attributes:
        mean: the mean over all frames.
        worst_decile: the mean over the worst tenth of the frames, which is rounded up to whole frames.
        worst: the value of the worst frame.
    """

    mean: float
    worst_decile: float
    worst: float


def summarise(scores: Iterable[Score]) -> dict[str, Summary]:
    """Return the summary of each metric that occurs in `scores`, by the keys of METRICS."""
    values: dict[str, list[float]] = {}
    for item in scores:
        for key, value in item.values.items():
            values.setdefault(key, []).append(value)
    return {key: _summary(found, METRICS[key].higher) for key, found in values.items()}


def _summary(values: Sequence[float], higher: bool) -> Summary:
    ordered = sorted(values, reverse=not higher)
    tenth = ordered[: math.ceil(len(ordered) / 10)]
    return Summary(sum(values) / len(values), sum(tenth) / len(tenth), ordered[0])


def _levels(difference: Tensor) -> float:
    return 255 * math.sqrt(float(difference.double().square().mean()))
