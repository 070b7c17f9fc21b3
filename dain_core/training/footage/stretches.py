"""Stretches of video, decoded into the memory of a device, with measurements of the motion in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dain_core.training.batch import TrainingDataError
from dain_core.training.footage.pace import positions
from dain_core.training.footage.search import Steps, shrunk

#: The possible gaps of a triplet: the number of frames from its first frame to its last one.
GAPS = range(2, 7)
#: The gaps for which flow is measured, and the side in pixels of the squares that have one value of flow each.
_MEASURED, _COARSER = (2, 4, 6), 4
#: The largest height of a decoded frame. Higher frames are scaled down to it.
_LINES = 1080
#: The side in pixels of the cells in which motion is measured.
_CELL = 32
#: Thresholds of the mean difference of two frames, whose range is [0, 1]. Below the first one the second frame repeats
#: the first. Above the second one, and above three times the median around, there is a cut.
_SAME, _CUT = 0.1 / 255, 0.06


@dataclass(frozen=True)
class Span:
    """A part of a video file.

    Attributes:
        path: the file.
        first: the index of the first frame in the file.
        count: the number of frames.
        size: the height and width of the decoded frames in pixels.
    """

    path: Path
    first: int
    count: int
    size: tuple[int, int]

    @property
    def bytes(self) -> int:
        """The size of the decoded frames."""
        return self.count * self.size[0] * self.size[1] * 3

    def parts(self, most: int) -> list[Span]:
        """Divide the span into parts of about the same length, none longer than `most` frames."""
        edges = np.linspace(0, self.count, math.ceil(self.count / most) + 1).round().astype(int)
        return [
            Span(self.path, int(first), int(last - first), self.size)
            for first, last in zip(edges[:-1], edges[1:], strict=True)
        ]


def probe(path: Path, crop: tuple[int, int]) -> Span:
    """Return the span of a whole file.

    Args:
        path: the video file.
        crop: the height and width that the frames must have at least.

    Raises:
        TrainingDataError: the file cannot be read, has fewer than three frames, or has frames smaller than `crop`.
    """
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            height, width = stream.height, stream.width
            count = stream.frames
            if not count:  # the container does not say
                count = sum(packet.size > 0 for packet in file.demux(stream))
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise TrainingDataError(
            f"{path} cannot be read as a video ({error}): replace or remove it"
        ) from error
    if height > _LINES:
        height, width = _LINES, round(width * _LINES / height)
    if height < crop[0] or width < crop[1]:
        raise TrainingDataError(
            f"{path} has frames of {height}x{width}, smaller than the crop: choose a smaller --crop, or remove the file"
        )
    if count < 3:
        raise TrainingDataError(f"{path} has {count} frames, but a triplet needs 3: remove the file")
    return Span(path, 0, count, (height, width))


class Stretch:
    """The decoded frames of a span, and measurements of the motion in them.

    Args:
        span: the frames to decode.
        device: the device that stores the frames.

    Attributes:
        frames: (T, H, W, 3), uint8 RGB.
        starts: by gap, the indices of the first frames of usable triplets. A triplet is usable if it has no cut and no
            repeated frame, and if the time of each of its frames is known.

    Raises:
        TrainingDataError: the file cannot be decoded or has fewer than three frames, or OpenCV is not installed.
    """

    def __init__(self, span: Span, device: torch.device) -> None:
        frames = np.empty((span.count, *span.size, 3), np.uint8)
        count = 0
        for frame in _decode(span):
            frames[count] = frame
            count += 1
        if count < 3:
            raise TrainingDataError(
                f"{span.path} has fewer frames than it announces: repair or remove the file"
            )
        self.frames = torch.from_numpy(frames[:count]).to(device)
        motion, usable = _measure(self.frames)
        #: Cumulative sums over time, height and width: the mean of any box takes eight look-ups.
        self._sums = np.pad(motion.cumsum(0).cumsum(1).cumsum(2), ((1, 0), (1, 0), (1, 0)))
        broken = np.concatenate([[0], np.cumsum(~usable)])
        steps = Steps(list(shrunk(self.frames)))
        place = positions(steps)
        lost = np.cumsum(np.isnan(place))
        self.starts = {
            gap: np.flatnonzero((broken[gap:] == broken[:-gap]) & (lost[gap - 1 : -1] == lost[:-gap]))
            for gap in GAPS
        }
        self._flows = self._measured(steps)
        #: The logarithm of the time from each frame to the next, up to a constant, which cancels out in `time`.
        self._lasting = np.cumsum(np.nan_to_num(np.log(1 / place[:-1] - 1)))

    def _measured(self, steps: Steps) -> dict[tuple[int, int], Tensor]:
        """Measure flow both ways for all usable triplets with a measured gap.

        Returns:
            By first frame and gap, flow like `Batch.flows`: (4, h, w), float16, in pixels of `frames`.
        """
        scale = self.frames.shape[2] / steps.on[0].shape[1]
        flows = {}
        for gap in _MEASURED:
            for first in map(int, self.starts[gap]):
                coarse = np.concatenate(steps.trusted(first, gap, _COARSER), 2)
                flows[first, gap] = (
                    torch.from_numpy(scale * coarse).permute(2, 0, 1).half().to(self.frames.device)
                )
        return flows

    def flows(self, place: Place, size: tuple[int, int]) -> Tensor:
        """Return the flow both ways between the first and the last frame of `place`, scaled to `size`.

        Returns:
            (4, H, W), float32, in pixels of the scaled crop; NaN where it is unknown. See `Batch.flows`.
        """
        known = self._flows.get((place.first, place.gap))
        if known is None:
            return self.frames.new_full((4, *size), torch.nan, dtype=torch.float32)
        _, height, width, _ = self.frames.shape
        x, y = (
            (torch.arange(count, device=known.device) + 0.5) * side / count + start
            for count, side, start in (
                (size[1], place.width, place.left),
                (size[0], place.height, place.top),
            )
        )
        where = torch.stack(torch.meshgrid(2 * x / width - 1, 2 * y / height - 1, indexing="xy"), 2)
        flows = F.grid_sample(known[None].float(), where[None], padding_mode="border", align_corners=False)[0]
        return flows * flows.new_tensor([size[1] / place.width, size[0] / place.height] * 2).view(4, 1, 1)

    def place(self, rng: np.random.Generator, gap: int, size: tuple[int, int], scale: float) -> Place:
        """Choose a random triplet and crop.

        Args:
            rng: the source of random numbers.
            gap: one of `GAPS`. If no triplet with this gap is usable, the gap is 2.
            size: the height and width to which the crop will be scaled down.
            scale: the size of the crop relative to `size`; smaller if the frame is too small.
        """
        gap = gap if len(self.starts[gap]) else 2
        first = int(rng.choice(self.starts[gap]))
        _, height, width, _ = self.frames.shape
        scale = min(scale, height / size[0], width / size[1])
        high, wide = int(size[0] * scale), int(size[1] * scale)
        top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        return Place(self, first, gap, top, left, high, wide)

    def time(self, first: int, middle: int, last: int) -> float:
        """Return the time of frame `middle` between frame `first` (0) and frame `last` (1)."""
        lasting = np.exp(self._lasting[first:last] - self._lasting[first])
        return float(lasting[: middle - first].sum() / lasting.sum())

    def motion(self, first: int, last: int, top: int, bottom: int, left: int, right: int) -> float:
        """Return the mean difference between neighbouring frames from `first` to `last`, in about this box.

        The box is given in pixels. The difference is that of grey levels in [0, 1].
        """
        rows, columns = self._sums.shape[1] - 1, self._sums.shape[2] - 1
        y0, x0 = min(top // _CELL, rows - 1), min(left // _CELL, columns - 1)
        y1, x1 = max(y0 + 1, min(bottom // _CELL, rows)), max(x0 + 1, min(right // _CELL, columns))
        before, after = self._sums[first], self._sums[last]
        box = after[y1, x1] - after[y0, x1] - after[y1, x0] + after[y0, x0]
        box -= before[y1, x1] - before[y0, x1] - before[y1, x0] + before[y0, x0]
        return float(box) / ((last - first) * (y1 - y0) * (x1 - x0))


@dataclass(frozen=True)
class Place:
    """A triplet of frames of a stretch, and a crop of these frames.

    Attributes:
        stretch: the frames.
        first: the index of the first frame.
        gap: the number of frames from the first frame to the last one.
        top, left, height, width: the crop in pixels of the stretch's frames.
    """

    stretch: Stretch
    first: int
    gap: int
    top: int
    left: int
    height: int
    width: int

    @property
    def motion(self) -> float:
        """The motion within the crop; see `Stretch.motion`."""
        return self.stretch.motion(
            self.first,
            self.first + self.gap,
            self.top,
            self.top + self.height,
            self.left,
            self.left + self.width,
        )

    def time(self, middle: int) -> float:
        """Return the time of frame `first` + `middle` between frame `first` (0) and frame `first` + `gap` (1)."""
        return self.stretch.time(self.first, self.first + middle, self.first + self.gap)

    def flows(self, size: tuple[int, int]) -> Tensor:
        """Return the flow within the crop; see `Stretch.flows`."""
        return self.stretch.flows(self, size)

    def cut(self, middle: int, size: tuple[int, int]) -> list[Tensor]:
        """Return the crops of frames `first`, `first` + `middle` and `first` + `gap`, scaled down to `size`.

        Each is (3, H, W), uint8 RGB.
        """
        times = (self.first, self.first + middle, self.first + self.gap)
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        frames = [self.stretch.frames[time, rows, columns].permute(2, 0, 1) for time in times]
        if (self.height, self.width) == size:
            return frames
        smaller = F.interpolate(
            torch.stack(frames).float(), size=size, mode="bilinear", antialias=True, align_corners=False
        )
        return list(smaller.round_().byte())


def _decode(span: Span) -> Iterator[NDArray[Any]]:
    """Decode the frames of `span`, (H, W, 3) uint8 RGB each. There are fewer if the file has fewer."""
    height, width = span.size
    try:
        with av.open(str(span.path)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            rate, base = stream.average_rate, stream.time_base
            frames: Iterator[av.VideoFrame] = file.decode(stream)
            if span.first and rate and base:
                start = span.first / rate + (stream.start_time or 0) * base
                file.seek(int(start / base), stream=stream)  # goes to the key frame before
                begin = float(start) - 1e-4
                frames = dropwhile(lambda frame: frame.time is not None and frame.time < begin, frames)
            else:
                frames = islice(frames, span.first, None)
            for frame in islice(frames, span.count):
                yield frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    except (av.error.FFmpegError, OSError) as error:
        raise TrainingDataError(
            f"{span.path} cannot be decoded ({error}): replace or remove the file"
        ) from error


def _measure(frames: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Compare each frame with the next one.

    Returns:
        The mean differences of grey levels by cell, (T - 1, rows, columns); and whether the two frames belong to one
        shot and differ, (T - 1,).
    """
    maps, coarse = [], []
    for start in range(0, len(frames) - 1, 16):
        grey = frames[start : start + 17].float().mean(3)[:, None] / 255
        cell = min(_CELL, *grey.shape[2:])
        maps.append(F.avg_pool2d((grey[1:] - grey[:-1]).abs(), cell)[:, 0])
        small = F.avg_pool2d(grey, cell)
        coarse.append((small[1:] - small[:-1]).abs().mean((1, 2, 3)))
    motion = torch.cat(maps).cpu().double().numpy()
    change = torch.cat(coarse).cpu().double().numpy()
    around = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(change, 3, mode="reflect"), 7), 1)
    cut = (change > _CUT) & (change > 3 * around)
    same = motion.mean((1, 2)) < _SAME
    return motion, ~(cut | same)
