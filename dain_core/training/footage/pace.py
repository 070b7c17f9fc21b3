"""When the frames of a video were taken. Recordings drop, repeat and delay frames, and a middle frame that is not where
it is said to be teaches a network to blur."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dain_core.training.footage.search import Flow, Steps

#: Less of a frame moves: it rests.
_FEW = 0.05
#: Half of the places lie further apart: they do not agree.
_SPREAD = 0.2
#: Nearer to half-way is half-way, as far as can be measured.
_EVEN = 0.02
#: Further from half-way a frame all but repeats a neighbour.
_UNEVEN = 0.4
#: So many of a camera's frames half-way: it is regular, and what disagrees are things that speed up and slow down.
_REGULAR = 0.8


def positions(steps: Steps) -> NDArray[np.float64]:
    """Where each frame of a stretch is between its two neighbours, (T,): 0.5 is half-way.

    It is the median over what moves most, of flow from the frame to both neighbours. Frames at rest are taken to be
    half-way; so are those whose parts disagree, where nearly all others are. NaN where parts disagree in less regular
    videos, where a frame all but repeats a neighbour, and at both ends.
    """
    result = np.full(len(steps.on) + 1, np.nan)
    for index in range(1, len(steps.on)):
        result[index] = _between(steps.back[index - 1], steps.on[index])
    known = result[~np.isnan(result)]
    if (known == 0.5).sum() > _REGULAR * len(known):
        result[1:-1] = np.nan_to_num(result[1:-1], nan=0.5)
    return np.where(np.abs(result - 0.5) > _UNEVEN, np.nan, result)


def _between(back: Flow, on: Flow) -> float:
    """From the flow to the frame before and to the one after, (H, W, 2); NaN where parts of the frame disagree."""
    path = on - back
    length = (path**2).sum(-1)
    moves = length >= max(1, np.median(length))
    if moves.mean() < _FEW:
        return 0.5
    low, place, high = np.percentile((-back * path).sum(-1)[moves] / length[moves], (25, 50, 75))
    if high - low > _SPREAD:
        return np.nan
    return 0.5 if abs(place - 0.5) < max(_EVEN, (high - low) / 2) else float(place)
