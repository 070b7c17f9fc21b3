"""Optical flow by search (DIS: Kroeger et al., ECCV 2016, OpenCV's), for what must be known of footage."""

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

#: Frames are scaled down to so many columns.
_COLUMNS = 480
#: There and back may end so far from where it began, in pixels and as a share of the way.
_ASTRAY, _ASTRAY_SHARE = 1.0, 0.05
_NOTHING = 1e4
#: How unlike the two ends may be, of 255, on average over so many pixels each way.
_UNLIKE, _AROUND = 10.0, 5


class Steps:
    """The flow between neighbouring frames of a stretch, searched for, and from it that between frames further apart.

    What has gone too far to be found at once has gone less from each frame to the next, so these flows are chained.

    Attributes:
        on, back: (H, W, 2) each, in pixels: from frame k to frame k + 1, and from frame k + 1 to frame k.

    Raises:
        TrainingDataError: OpenCV is not installed.
    """

    def __init__(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        """`frames`: (H, W) each."""
        try:
            self._cv2: Any = importlib.import_module("cv2")  # an optional package
        except ImportError as error:
            raise TrainingDataError(
                "training on videos needs OpenCV's flow, to tell what moves where and when frames were taken: "
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
        """The flow from a frame to the one that comes `gap` frames later, and back, of the middle of every `side`
        pixels each way; NaN where there and back does not lead back, or where one end does not look like the other."""
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
        """`values` at places (h, w, 2); outside of the frame, what is like nothing."""
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
    """Frames (T, H, W, 3) uint8 as the search takes them: (h, w) uint8 each."""
    _, height, width, _ = frames.shape
    scale = min(1, _COLUMNS / width)
    for part in frames.split(16):
        grey = part.float().mean(3)[:, None]
        smaller = F.interpolate(grey, size=(round(height * scale), round(width * scale)), mode="area")
        yield from smaller[:, 0].round().byte().cpu().numpy()
