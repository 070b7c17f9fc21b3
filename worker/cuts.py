"""What happens from one frame to the next: motion, a cut, a fade or a flash. Only motion is the network's.

Frames are compared by small thumbnails. Each is brought to one contrast, the picture as a whole and then every
neighbourhood in it, so that night, fog and the dark count as much as the day. The halves of one are laid over the other
at every shift up to a fifth of the picture, so that a fast pan stays one scene, and so does traffic.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

import numpy as np

from worker.media.decode import Plane

ROWS, COLUMNS = 32, 56  # cells: a thumbnail this small shows what is where, and no grain
ROWS_OF_A_CELL = 8  # samples that are read
MOST_DOWN, MOST_ACROSS = 6, 12  # cells by which a picture is shifted
WINDOW = 9  # cells on a side of a neighbourhood

MOST_OF_A_SCENE = (
    0.16  # difference between frames that a fade may connect: more is another picture, by (1 - 0.6)^2
)
BRIGHTER = 1.3  # times: what no motion does from one frame to the next
STEADY = 0.7  # correlation of two steps of a fade

_FLAT = (
    0.003**2
)  # variance of brightness, in [0, 1], of a picture that shows as much noise as it shows things
_EVEN = 0.02  # the same for a neighbourhood, in a picture whose variance is 1
_BLACK = 16 / 255  # of a limited range; a full range has few pictures that are darker
_NIGHT = 0.02  # brightness above black, which a picture without light may have of noise
_DARK = 0.01**2  # the constant C1 of SSIM


class Transition(Enum):
    """What happens between two frames, and so what is shown between them."""

    MOTION = auto()  #: frames that the network makes
    CUT = auto()  #: the nearer of the two
    FADE = auto()  #: a mixture of the two
    FLASH = auto()  #: the first: the second is lit by a flash, or its light is switched for good
    FLASH_ENDS = auto()  #: the second: the first was lit by a flash


@dataclass(frozen=True)
class Thumbnail:
    """What a frame is compared by."""

    means: Plane  #: the brightness of each cell, in [0, 1]
    pattern: Plane  #: the same with one contrast everywhere: of mean 0, and variance `detail`
    detail: float  #: from 0, for a flat picture, to 1

    @classmethod
    def of(cls, luma: Plane) -> Thumbnail:
        """The thumbnail of a plane of height x width samples: 8 bits in uint8, or 10 bits in uint16."""
        means = _cells(luma)
        centred = means - means.mean()
        variance = float(np.square(centred).mean())
        whole = centred / np.sqrt(variance + _FLAT)
        around = _local_mean(whole)
        spread = _local_mean(np.square(whole)) - np.square(around)
        pattern = (whole - around) / np.sqrt(np.maximum(spread, 0) + _EVEN)
        pattern /= max(float(np.sqrt(np.square(pattern).mean())), 1e-6)
        detail = variance / (variance + _FLAT)
        return cls(means, pattern * np.sqrt(detail), detail)

    @cached_property
    def halves(self) -> list[Plane]:
        """The transforms of the left and the right half of ``pattern``, with room for shifts."""
        left = self.pattern.copy()
        left[:, self.pattern.shape[1] // 2 :] = 0
        return [np.fft.rfft2(half, _room(self.pattern.shape)) for half in (left, self.pattern - left)]


def difference(first: Thumbnail, second: Thumbnail) -> float:
    """How different two frames with these thumbnails are: from 0 (the same) to 1 (nothing in common).

    The measure is (1 - s)^2. Here s is the correlation of the two patterns, each half of the first at the shift where
    that is greatest. Flat pictures have no pattern: there s is how much brighter the one is (the first factor of SSIM,
    Wang et al. 2004). Frames of one scene have an s of 0.5 and more, those of two scenes up to 0.4. So a threshold near
    0.3 separates them.

        >>> difference(Thumbnail.of(luma), Thumbnail.of(luma))
        0.0
    """
    rows, columns = first.pattern.shape
    left, right = second.halves
    other = (left + right).conj()
    downs, acrosses = _shifts(rows, MOST_DOWN), _shifts(columns, MOST_ACROSS)
    pattern = 0.0
    for half, (start, stop) in zip(first.halves, _bounds(columns), strict=True):
        sums = np.fft.irfft2(half * other, _room(first.pattern.shape))[np.ix_(downs, acrosses)]
        overlap = np.minimum(stop, columns + acrosses) - np.maximum(start, acrosses)
        cells = np.outer(rows - np.abs(downs), overlap)
        found = np.where(2 * cells >= rows * (stop - start), sums / np.maximum(cells, 1), 0)
        pattern += float(found.max()) * (stop - start) / columns
    dim, bright = sorted((float(first.means.mean()), float(second.means.mean())))
    light = (2 * dim * bright + _DARK) / (dim**2 + bright**2 + _DARK)
    alike = pattern + light * np.sqrt((1 - first.detail) * (1 - second.detail))
    return float(np.clip(1 - alike, 0, 1) ** 2)


def transition(
    before: Thumbnail | None, first: Thumbnail, second: Thumbnail, after: Thumbnail | None, threshold: float
) -> Transition:
    """What happens from the frame ``first`` to the frame ``second``. Frames around them are None where there are none.

    A cut is where they differ by more than ``threshold``: 0 finds one between any two frames, and 1 leaves all of them
    to the network, flashes and fades among them. A fade is told from a cut and from motion by its steps: it goes on as
    it began, and leads to another picture or another light.
    """
    if threshold == 1:
        return Transition.MOTION
    differs = difference(first, second)
    if threshold > 0 and (_fades(before, first, second) or _fades(first, second, after)):
        return Transition.FADE
    if differs > threshold:
        return Transition.CUT
    if _brighter(first, second) < BRIGHTER:
        return Transition.MOTION
    lit = before is not None and _brighter(before, second) < BRIGHTER
    return Transition.FLASH_ENDS if lit else Transition.FLASH


def _fades(one: Thumbnail | None, two: Thumbnail, three: Thumbnail | None) -> bool:
    """Whether each of three frames goes on from the one before as a fade does."""
    if one is None or three is None:
        return False
    step, next_step = two.means - one.means, three.means - two.means
    size, next_size = float(np.linalg.norm(step)), float(np.linalg.norm(next_step))
    if not size / 2 < next_size < size * 2 or float((step * next_step).sum()) < STEADY * size * next_size:
        return False
    return _brighter(one, three) >= BRIGHTER**2 or difference(one, three) > MOST_OF_A_SCENE


def _brighter(one: Thumbnail, other: Thumbnail) -> float:
    """How many times as bright the brighter of two frames is."""
    dim, bright = sorted(max(float(each.means.mean()) - _BLACK, 0) for each in (one, other))
    return (bright + _NIGHT) / (dim + _NIGHT)


def _bounds(columns: int) -> list[tuple[int, int]]:
    return [(0, columns // 2), (columns // 2, columns)]


def _shifts(size: int, most: int) -> Plane:
    """All shifts of up to ``most`` cells, and up to a quarter of ``size``: as indices into a transform's inverse."""
    most = min(most, size // 4)
    return np.r_[0 : most + 1, -most:0] if most else np.zeros(1, int)


def _room(shape: tuple[int, ...]) -> tuple[int, int]:
    """The size of a transform in which no shift leads round to the other side."""
    rows, columns = shape
    return rows + min(MOST_DOWN, rows // 4), columns + min(MOST_ACROSS, columns // 4)


def _cells(luma: Plane) -> Plane:
    """The mean brightness of each cell of a grid over ``luma``: at most ROWS x COLUMNS numbers in [0, 1]."""
    row_edges, column_edges = (
        [k * size // min(size, most) for k in range(min(size, most) + 1)]
        for size, most in zip(luma.shape, (ROWS, COLUMNS), strict=True)
    )
    # Eight rows of a cell say as much as all. Whole rows are read a dozen times as fast as small blocks.
    strips = [luma[a : b : max(1, (b - a) // ROWS_OF_A_CELL)] for a, b in itertools.pairwise(row_edges)]
    rows = np.stack([strip.sum(axis=0, dtype=np.uint32) for strip in strips])
    sums = np.add.reduceat(rows, column_edges[:-1], axis=1)
    counts = np.outer([len(strip) for strip in strips], np.diff(column_edges))
    means: Plane = sums / counts / (255 if luma.dtype == np.uint8 else 1023)
    return means


def _local_mean(values: Plane) -> Plane:
    """The mean of the window around each cell; at a border, of the part of it that there is."""
    half = WINDOW // 2
    for axis in (0, 1):
        size = values.shape[axis]
        sums = np.concatenate([np.zeros_like(values.take([0], axis)), values.cumsum(axis)], axis)
        low, high = np.clip(np.arange(size) - half, 0, size), np.clip(np.arange(size) + half + 1, 0, size)
        count = (high - low).reshape((-1, 1) if axis == 0 else (1, -1))
        values = (sums.take(high, axis) - sums.take(low, axis)) / count
    return values
