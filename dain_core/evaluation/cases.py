"""The cases worth looking at: where the first method's frames are worst, and where another's are better by most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dain_core.evaluation.pictures import jpeg, png
from dain_core.evaluation.scores import Score

#: Errors are shown so many times as large: 64 levels are full scale.
AMPLIFIED = 4

#: Height and width of the detail that is shown enlarged.
DETAIL = (96, 128)

_STEP = 8  # a detail begins at a multiple of it
_WIDTH = 1280  # whole pictures are not shown larger


@dataclass(frozen=True)
class Case:
    """A sample's frame at one time, in pictures that are ready to be shown.

    Attributes:
        scores: one for each method, the judged one first.
        whole: "inputs" (the two frames laid over each other), "truth" and every method's frame, as JPEG.
        detail: of the same, where the judged method is worst, as PNG.
        errors: of every method, as JPEG: black where it is right, over red and yellow to white.
    """

    scores: Sequence[Score]
    whole: Mapping[str, bytes]
    detail: Mapping[str, bytes]
    errors: Mapping[str, bytes]


class Worst:
    """Keeps the `count` worst cases of each clip, and the `count` in which another method leads by most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: dict[tuple[str, str], list[tuple[float, int, Case]]] = {}
        self._offered = 0

    def offer(self, scores: Sequence[Score], build: Callable[[], Case]) -> None:
        """Keep the case that `build` makes of a frame with these scores, if it is among the worst so far."""
        self._offered += 1
        clip, psnr = scores[0].clip, scores[0].values["psnr"]
        ranks = {"worst": -psnr}
        if (ahead := lead(scores)) and ahead[1] > 0:
            ranks["behind"] = ahead[1]
        places = {kind: rank for kind, rank in ranks.items() if self._fits(kind, clip, rank)}
        if not places:
            return
        case = build()
        for kind, rank in places.items():
            kept = self._kept.setdefault((kind, clip), [])
            kept.append((rank, -self._offered, case))  # of equals, the earlier
            kept.sort(key=lambda item: item[:2], reverse=True)
            del kept[self._count :]

    def worst(self) -> list[Case]:
        """The worst of all first."""
        return self._sorted("worst")

    def behind(self) -> list[Case]:
        """The furthest behind first."""
        return self._sorted("behind")

    def _fits(self, kind: str, clip: str, rank: float) -> bool:
        kept = self._kept.get((kind, clip), [])
        return len(kept) < self._count or (bool(kept) and rank > kept[-1][0])

    def _sorted(self, kind: str) -> list[Case]:
        found = [item for (key, _), kept in self._kept.items() if key == kind for item in kept]
        return [case for _, _, case in sorted(found, key=lambda item: item[:2], reverse=True)]


def lead(scores: Sequence[Score]) -> tuple[str, float] | None:
    """The best of the other methods, and by how many dB it is ahead of the first."""
    best = max(scores[1:], key=lambda score: score.values["psnr"], default=None)
    return (best.method, best.values["psnr"] - scores[0].values["psnr"]) if best else None


def make_case(
    scores: Sequence[Score], inputs: tuple[Tensor, Tensor], truth: Tensor, made: Mapping[str, Tensor]
) -> Case:
    """A case of frames (1, 3, H, W) in [0, 1]; `made` by method."""
    detail = _worst_window((made[scores[0].method] - truth).square().mean(1, keepdim=True))
    frames = {"inputs": (inputs[0] + inputs[1]) / 2, "truth": truth, **made}
    pictures = {name: _pixels(frame) for name, frame in frames.items()}
    return Case(
        scores,
        whole={name: jpeg(picture, _WIDTH) for name, picture in pictures.items()},
        detail={name: png(picture[detail]) for name, picture in pictures.items()},
        errors={name: jpeg(_pixels(_heat(frame, truth)), _WIDTH) for name, frame in made.items()},
    )


def _heat(frame: Tensor, truth: Tensor) -> Tensor:
    """The mean error over channels as colours, (1, 3, H, W)."""
    error = 3 * AMPLIFIED * (frame - truth).abs().mean(1, keepdim=True)
    return torch.cat([error, error - 1, error - 2], 1).clamp(0, 1)


def _pixels(frame: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = (frame[0] * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def _worst_window(error: Tensor) -> tuple[slice, slice]:
    """Where the mean of `error` (1, 1, H, W) over a window of DETAIL is the largest."""
    height, width = (min(size, limit) for size, limit in zip(error.shape[-2:], DETAIL, strict=True))
    means = F.avg_pool2d(error, (height, width), stride=_STEP)
    row, column = divmod(int(means.argmax()), means.shape[-1])
    return slice(row * _STEP, row * _STEP + height), slice(column * _STEP, column * _STEP + width)
