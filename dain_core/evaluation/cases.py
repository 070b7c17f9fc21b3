"""Selects the cases that are worth looking at, and makes their pictures for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dain_core.evaluation.pictures import jpeg, png
from dain_core.evaluation.scores import METRICS, Score

#: For each reason to keep a case, the heading of its section.
REASONS = {
    "worst": "Worst",
    "behind": "Furthest behind another method",
    "depth": "Worst depth",
}

#: The factor by which errors are enlarged: an error of 64 levels is white.
AMPLIFIED = 4

#: The height and width of the detail that is shown enlarged, in pixels.
DETAIL = (96, 128)

_STEP = 8  # the top and left of a detail are multiples of it
_WIDTH = 1280  # the largest width of a whole picture


@dataclass(frozen=True)
class Row:
    """Pictures side by side.

    Attributes:
        kind: the format of the pictures, "jpeg" or "png".
        pictures: the encoded pictures by caption.
        skip: the number of empty columns before the first picture.
    """

    kind: str
    pictures: Mapping[str, bytes]
    skip: int = 0


@dataclass(frozen=True)
class Case:
    """The results of all methods for one frame, or for the depth of one picture.

    Attributes:
        heading: the clip and the sample.
        verdict: the scores of the judged method.
        rows: the pictures.
    """

    heading: str
    verdict: str
    rows: Sequence[Row]


class Worst:
    """Keeps the `count` cases with the highest ranks for each clip and for each of REASONS."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: dict[tuple[str, str], list[tuple[float, int, Case]]] = {}
        self._offered = 0

    def offer(self, clip: str, ranks: Mapping[str, float], build: Callable[[], Case]) -> None:
        """Keep a case if one of its ranks is among the highest so far.

        Args:
            clip: the name of the clip.
            ranks: by reason, how bad the case is.
            build: makes the case. It is called only if the case is kept.
        """
        self._offered += 1
        fitting = {reason: rank for reason, rank in ranks.items() if self._fits(reason, clip, rank)}
        if not fitting:
            return
        case = build()
        for reason, rank in fitting.items():
            kept = self._kept.setdefault((reason, clip), [])
            kept.append((rank, -self._offered, case))  # the earlier of equal cases ranks higher
            kept.sort(key=lambda item: item[:2], reverse=True)
            del kept[self._count :]

    def cases(self, reason: str) -> list[Case]:
        """Return the cases of all clips that were kept for `reason`, the worst first."""
        found = [item for (key, _), kept in self._kept.items() if key == reason for item in kept]
        return [case for _, _, case in sorted(found, key=lambda item: item[:2], reverse=True)]

    def _fits(self, reason: str, clip: str, rank: float) -> bool:
        kept = self._kept.get((reason, clip), [])
        return len(kept) < self._count or (bool(kept) and rank > kept[-1][0])


def ranks(scores: Sequence[Score]) -> dict[str, float]:
    """Return the ranks of a frame by reason.

    Args:
        scores: the scores of all methods for the frame, the judged method first.
    """
    found = {"worst": -scores[0].values["psnr"]}
    if (ahead := _lead(scores)) and ahead[1] > 0:
        found["behind"] = ahead[1]
    return found


def frame_case(
    scores: Sequence[Score], inputs: tuple[Tensor, Tensor], truth: Tensor, made: Mapping[str, Tensor]
) -> Case:
    """Make the case of a frame. All frames are (1, 3, H, W), in [0, 1].

    Args:
        scores: the scores of all methods, the judged method first.
        inputs: the first and the last frame.
        truth: the true frame.
        made: the made frames by method.
    """
    first = scores[0]
    when = "" if first.time == 0.5 else f" at t = {first.time:.3g}"
    verdict = f"{first.method}: {_values(first)}"
    if ahead := _lead(scores):
        verdict += f"; {ahead[0]} is {abs(ahead[1]):.2f} dB {'better' if ahead[1] > 0 else 'worse'}"
    frames = {"inputs": (inputs[0] + inputs[1]) / 2, "truth": truth, **made}
    pictures = {name: _pixels(frame) for name, frame in frames.items()}
    detail = _worst_detail((made[first.method] - truth).square().mean(1, keepdim=True))
    values = {score.method: _values(score) for score in scores}
    errors = {f"error of {name} x {AMPLIFIED}": _heat(frame, truth) for name, frame in made.items()}
    rows = [
        Row("jpeg", {f"{name} {values.get(name, '')}": jpeg(x, _WIDTH) for name, x in pictures.items()}),
        Row("png", {name: png(picture[detail]) for name, picture in pictures.items()}),
        Row("jpeg", {name: jpeg(_pixels(x), _WIDTH) for name, x in errors.items()}, skip=2),
    ]
    return Case(f"{first.clip} {first.sample}{when}", verdict, rows)


def depth_case(scores: Sequence[Score], image: Tensor, truth: Tensor, seen: Mapping[str, Tensor]) -> Case:
    """Make the case of a picture's depth. Near is white, and unknown is black.

    Args:
        scores: the scores of all models, the judged model first.
        image: the picture, (1, 3, H, W), uint8.
        truth: the true depth, (H, W); 0 is unknown.
        seen: the depth, (H, W), by model, in the order of `scores`.
    """
    known = truth > 0
    log_truth = truth.clamp(min=1e-12).log()
    near, far = torch.quantile(log_truth[known][:: known.sum() // 100_000 + 1], torch.tensor([0.02, 0.98]))
    maps = {"truth": torch.where(known, log_truth, torch.inf)}
    for score, depth in zip(scores, seen.values(), strict=True):
        # A model's depth has no unit. Its median is shifted to the median of the truth.
        shift = (log_truth - depth.log())[known].median()
        maps[f"{score.method} {_values(score)}"] = depth.log() + shift
    shown = {
        name: ((far - log_depth) / (far - near).clamp(min=1e-6)).clamp(0, 1).expand(1, 3, -1, -1)
        for name, log_depth in maps.items()
    }
    pictures = {"picture": image.float() / 255, **shown}
    row = Row("jpeg", {name: jpeg(_pixels(picture), _WIDTH) for name, picture in pictures.items()})
    return Case(f"{scores[0].clip} {scores[0].sample}", f"{scores[0].method}: {_values(scores[0])}", [row])


def _lead(scores: Sequence[Score]) -> tuple[str, float] | None:
    """Return the name of the best of the other methods, and its lead over the first method in dB of PSNR."""
    best = max(scores[1:], key=lambda score: score.values["psnr"], default=None)
    return (best.method, best.values["psnr"] - scores[0].values["psnr"]) if best else None


def _values(score: Score) -> str:
    shown = ((METRICS[key], value) for key, value in score.values.items())
    return ", ".join(f"{metric.heading.removesuffix(' dB')} {value:{metric.form}}" for metric, value in shown)


def _heat(frame: Tensor, truth: Tensor) -> Tensor:
    """Return the mean error over channels as colours, (1, 3, H, W): black for none, then red, yellow and white."""
    error = 3 * AMPLIFIED * (frame - truth).abs().mean(1, keepdim=True)
    return torch.cat([error, error - 1, error - 2], 1).clamp(0, 1)


def _pixels(frame: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = (frame[0] * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def _worst_detail(error: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns of the detail with the largest mean of `error`, (1, 1, H, W)."""
    height, width = (min(size, limit) for size, limit in zip(error.shape[-2:], DETAIL, strict=True))
    means = F.avg_pool2d(error, (height, width), stride=_STEP)
    row, column = divmod(int(means.argmax()), means.shape[-1])
    return slice(row * _STEP, row * _STEP + height), slice(column * _STEP, column * _STEP + width)
