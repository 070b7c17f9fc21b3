"""The newest new frame of an attempt as a small picture, for whoever looks at the job while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import av
import numpy as np

from dain_core.runtime.color import YCGCO
from dain_core.runtime.pixels import PixelFormat
from worker.media.decode import Plane
from worker.media.picture import jpeg
from worker.plan import JobPlan

SECONDS = 2.0  # between two pictures
WIDTH = 640  # of each of the two frames, at most


class Preview:
    """Pictures of a job's frames: to the left the source frame, to the right the newest of those made after it.

    Whoever makes frames only leaves them here. A picture is made of them when it is asked for.
    """

    def __init__(self, plan: JobPlan) -> None:
        self._info = plan.info
        self._pixels = PixelFormat.named(plan.delivery.pixel_format).opaque
        self._newest: tuple[Sequence[Plane], Sequence[Plane]] | None = None
        self._taken_at = -math.inf

    def show(self, before: Sequence[Plane], made: Sequence[Plane]) -> None:
        """Take a new frame, and the source frame before it. Their planes are no longer changed."""
        self._newest = before, made

    def take(self) -> bytes | None:
        """The picture as JPEG; None where nothing is new, one was taken just now, or FFmpeg has not the colours."""
        now, newest = time.monotonic(), self._newest
        if newest is None or now - self._taken_at < SECONDS or self._info.color_matrix == YCGCO:
            return None
        self._newest, self._taken_at = None, now
        info = self._info
        return jpeg(
            [self._frame(planes) for planes in newest],
            width=WIDTH,
            matrix=info.color_matrix,
            is_full=info.full_range,
            aspect=info.sample_aspect_ratio,
            rotation=info.rotation,
        )

    def _frame(self, planes: Sequence[Plane]) -> av.VideoFrame:
        height, width = planes[0].shape
        frame = av.VideoFrame(width, height, self._pixels.name)
        for there, plane in zip(frame.planes, planes, strict=False):  # alpha is left out
            rows = np.frombuffer(memoryview(there), self._pixels.dtype).reshape(plane.shape[0], -1)
            rows[:, : plane.shape[1]] = plane
        return frame
