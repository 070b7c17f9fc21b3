"""Measures the motion of footage with OpenCV's DIS flow, which searches for it (Kroeger et al., ECCV 2016)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dain_core.training.batch import TrainingDataError

Flow = NDArray[np.float32]

#: The width in columns to which frames are scaled down before the search.
_COLUMNS = 480
#: The largest distance between the start of a round trip (the flow there and the flow back) and its end: in pixels, and
#: as a share of the flow's length.
_ASTRAY, _ASTRAY_SHARE = 1.0, 0.05
#: The value outside a frame, which no pixel and no flow comes near to.
_NOTHING = 1e4
#: The largest mean difference between both ends of a flow, of 255, and the side in pixels of the square of the mean.
_UNLIKE, _AROUND = 10.0, 5


class Steps:
    """The flow between neighbouring frames of a stretch, and between frames that are further apart.

    A search between distant frames misses long motions. Therefore the flow between distant frames is a chain of flows
    between neighbours.

    Args:
        frames: grey frames, (H, W) each, as `shrunk` returns them.

    Attributes:
        on, back: the flow from frame k to frame k + 1, and from frame k + 1 to frame k; (H, W, 2) each, in pixels.

    Raises:
        TrainingDataError: OpenCV is not installed.
    """

    def __init__(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        try:
            self._cv2: Any = importlib.import_module("cv2")  # an optional package
        except ImportError as error:
            raise TrainingDataError(
                "training on videos needs OpenCV, which measures the motion in them: "
                "pip install opencv-python-headless"
            ) from error
        search = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._frames = frames
        self.on: list[Flow] = [search.calc(one, other, None) for one, other in pairwise(frames)]
        self.back: list[Flow] = [search.calc(other, one, None) for one, other in pairwise(frames)]
        height, width = frames[0].shape
        grid = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        self._grid: Flow = np.stack(grid, 2)

    def trusted(self, first: int, gap: int, side: int = 1) -> tuple[Flow, Flow]:
        """Return the flow between frames `first` and `first` + `gap` where it can be trusted, and NaN elsewhere.

        A flow cannot be trusted if the round trip ends far from its start, or if both ends look different.

        Args:
            first: the index of the first frame.
            gap: the number of frames from the first frame to the last one.
            side: the flow is given for the middle of every `side` x `side` pixels.

        Returns:
            The flow from first to last, and from last to first; (H / `side`, W / `side`, 2) each, in pixels.
        """
        last = first + gap
        there, back = self._chained(self.on[first:last]), self._chained(self.back[first:last][::-1])
        one, other = self._frames[first], self._frames[last]
        return (
            self._checked(there, back, one, other, side),
            self._checked(back, there, other, one, side),
        )

    def _chained(self, steps: Sequence[Flow]) -> Flow:
        flow = steps[0]
        for step in steps[1:]:
            flow = flow + self._at(self._grid + flow, step)
        return flow

    def _checked(
        self, flow: Flow, back: Flow, here: NDArray[np.uint8], there: NDArray[np.uint8], side: int
    ) -> Flow:
        ends = self._grid + flow
        unlike = self._cv2.absdiff(self._at(ends, there.astype(np.float32)), here.astype(np.float32))
        unlike = self._cv2.blur(unlike, (_AROUND, _AROUND))
        some = np.s_[side // 2 :: side, side // 2 :: side]
        flow, unlike = flow[some], unlike[some]
        round_trip = flow + self._at(np.ascontiguousarray(ends[some]), back)
        astray, length = (np.hypot(way[..., 0], way[..., 1]) for way in (round_trip, flow))
        right = (astray < _ASTRAY + _ASTRAY_SHARE * length) & (unlike < _UNLIKE)
        return np.where(right[..., None], flow, np.float32(np.nan))

    def _at(self, places: Flow, values: Flow) -> Flow:
        """Return `values` at `places`, (h, w, 2), bilinearly; `_NOTHING` outside the frame."""
        result: Flow = self._cv2.remap(
            values,
            places,
            None,
            self._cv2.INTER_LINEAR,
            borderMode=self._cv2.BORDER_CONSTANT,
            borderValue=(_NOTHING, _NOTHING),
        )
        return result


def shrunk(frames: Tensor) -> Iterator[NDArray[np.uint8]]:
    """Return `frames`, (T, H, W, 3) uint8 RGB, in grey and scaled down for the search: (h, w) uint8 each."""
    _, height, width, _ = frames.shape
    scale = min(1, _COLUMNS / width)
    for part in frames.split(16):
        grey = part.float().mean(3)[:, None]
        smaller = F.interpolate(grey, size=(round(height * scale), round(width * scale)), mode="area")
        yield from smaller[:, 0].round().byte().cpu().numpy()
