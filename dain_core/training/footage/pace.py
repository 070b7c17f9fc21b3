"""When the frames of a video were taken. Recordings drop, repeat and delay frames, and a middle frame that is not where
it is said to be teaches a network to blur."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dain_core.training.batch import TrainingDataError

#: Motion is measured on frames scaled down to so many columns.
_COLUMNS = 480
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


def positions(frames: Tensor) -> NDArray[np.float64]:
    """Where each of some frames, (T, H, W, 3) uint8, is between its two neighbours, (T,): 0.5 is half-way.

    It is the median over what moves most, of flow from the frame to both neighbours. Frames at rest are taken to be
    half-way; so are those whose parts disagree, where nearly all others are. NaN where parts disagree in less regular
    videos, where a frame all but repeats a neighbour, and at both ends.

    Raises:
        TrainingDataError: OpenCV is not installed.
    """
    try:
        cv2: Any = importlib.import_module("cv2")  # an optional package
    except ImportError as error:
        raise TrainingDataError(
            "training on videos needs OpenCV's flow, to tell when their frames were taken: "
            "pip install opencv-python-headless"
        ) from error
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # Kroeger et al., 2016
    result = np.full(len(frames), np.nan)
    small = list(_shrunk(frames))
    for index in range(1, len(small) - 1):
        back, on = (search.calc(small[index], small[index + step], None) for step in (-1, 1))
        result[index] = _between(back, on)
    known = result[~np.isnan(result)]
    if (known == 0.5).sum() > _REGULAR * len(known):
        result[1:-1] = np.nan_to_num(result[1:-1], nan=0.5)
    return np.where(np.abs(result - 0.5) > _UNEVEN, np.nan, result)


def _between(back: NDArray[np.float32], on: NDArray[np.float32]) -> float:
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


def _shrunk(frames: Tensor) -> Iterator[NDArray[Any]]:
    """(H, W) uint8 each."""
    _, height, width, _ = frames.shape
    scale = min(1, _COLUMNS / width)
    for part in frames.split(16):
        grey = part.float().mean(3)[:, None]
        smaller = F.interpolate(grey, size=(round(height * scale), round(width * scale)), mode="area")
        yield from smaller[:, 0].round().byte().cpu().numpy()
