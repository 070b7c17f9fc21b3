"""Measures when the frames of a video were taken.

Recordings drop, repeat and delay frames. A middle frame with a wrong time teaches a network to blur.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dain_core.training.footage.search import Flow, Steps

#: A frame rests if less than this share of it moves.
_FEW = 0.05
#: The parts of a frame disagree if the quartiles of their positions lie further apart than this.
_SPREAD = 0.2
#: A position this near to 0.5 counts as 0.5, which is the accuracy of the measurement.
_EVEN = 0.02
#: A position further than this from 0.5 means that the frame nearly repeats a neighbour.
_UNEVEN = 0.4
#: A camera is regular if more than this share of its frames are half-way. Frames of a regular camera whose parts
#: disagree show things that accelerate.
_REGULAR = 0.8


def positions(steps: Steps) -> NDArray[np.float64]:
    """Return the position of each frame of a stretch between its two neighbours, (T,): 0.5 is half-way.

    The position is the median over the parts that move most, and is measured by the flow to both neighbours. A frame
    at rest gets 0.5. A frame whose parts disagree gets 0.5 in a regular video, and NaN in any other. The first frame,
    the last frame and a frame that nearly repeats a neighbour get NaN.

    Args:
        steps: the flow between the neighbouring frames of the stretch.
    """
    result = np.full(len(steps.on) + 1, np.nan)
    for index in range(1, len(steps.on)):
        result[index] = _between(steps.back[index - 1], steps.on[index])
    known = result[~np.isnan(result)]
    if (known == 0.5).sum() > _REGULAR * len(known):
        result[1:-1] = np.nan_to_num(result[1:-1], nan=0.5)
    return np.where(np.abs(result - 0.5) > _UNEVEN, np.nan, result)


def _between(back: Flow, on: Flow) -> float:
    """Return the position of a frame between its neighbours; NaN if the parts of the frame disagree.

    Args:
        back, on: the flow to the frame before and to the frame after, (H, W, 2), in pixels.
    """
    path = on - back
    length = (path**2).sum(-1)
    moves = length >= max(1, np.median(length))
    if moves.mean() < _FEW:
        return 0.5
    low, place, high = np.percentile((-back * path).sum(-1)[moves] / length[moves], (25, 50, 75))
    if high - low > _SPREAD:
        return np.nan
    return 0.5 if abs(place - 0.5) < max(_EVEN, (high - low) / 2) else float(place)
