"""Stretches of video, decoded into the device's memory, and where in them something moves."""

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

#: How many frames the last one of a triplet may be after the first.
GAPS = range(2, 7)
#: Of triplets of these, flow is measured; a value for so many pixels each way is enough.
_MEASURED, _COARSER = (2, 4, 6), 4
#: Frames are scaled down to so many lines.
_LINES = 1080
#: Side of the cells in which motion is measured.
_CELL = 32
#: Between two frames in parts of the range: less and they are the same; more, and by a factor of three more than
#: between their neighbours, and there is a cut.
_SAME, _CUT = 0.1 / 255, 0.06


@dataclass(frozen=True)
class Span:
    """A part of a file: `count` frames from frame `first` on, (height, width) as decoded."""

    path: Path
    first: int
    count: int
    size: tuple[int, int]

    @property
    def bytes(self) -> int:
        return self.count * self.size[0] * self.size[1] * 3

    def parts(self, most: int) -> list[Span]:
        """Cut into parts of about one length, none longer than `most` frames."""
        edges = np.linspace(0, self.count, math.ceil(self.count / most) + 1).round().astype(int)
        return [
            Span(self.path, int(first), int(last - first), self.size)
            for first, last in zip(edges[:-1], edges[1:], strict=True)
        ]


def probe(path: Path, crop: tuple[int, int]) -> Span:
    """All of a file.

    Raises:
        TrainingDataError: it cannot be read, has fewer than three frames, or smaller ones than the crop.
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
            f"{path} has frames of {height}x{width}, smaller than the crop: choose a smaller --crop, or remove it"
        )
    if count < 3:
        raise TrainingDataError(f"{path} has {count} frames, and a triplet needs 3: remove it")
    return Span(path, 0, count, (height, width))


class Stretch:
    """Decoded frames, (T, H, W, 3) uint8, and where in them something moves.

    Attributes:
        starts: by gap, the first frames of triplets that have no cut and no repeated frame in them, and of which it is
            known when each was taken.
    """

    def __init__(self, span: Span, device: torch.device) -> None:
        frames = np.empty((span.count, *span.size, 3), np.uint8)
        count = 0
        for frame in _decode(span):
            frames[count] = frame
            count += 1
        if count < 3:
            raise TrainingDataError(f"{span.path} has fewer frames than it promises: repair or remove it")
        self.frames = torch.from_numpy(frames[:count]).to(device)
        motion, usable = _measure(self.frames)
        #: Sums over all before in time, height and width, so that any box's mean is eight look-ups.
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
        #: Logarithms of the time from each frame to the next, up to a factor that no triplet shows.
        self._lasting = np.cumsum(np.nan_to_num(np.log(1 / place[:-1] - 1)))

    def _measured(self, steps: Steps) -> dict[tuple[int, int], Tensor]:
        """By first frame and gap: flow both ways as `Batch.flows` has it, but (4, h, w), float16, for pixels of
        frames as they are here."""
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
        """Flow both ways of a place's first and last frame scaled to that size, (4, H, W), float32, in its pixels; NaN
        where it is not known."""
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
        gap = gap if len(self.starts[gap]) else 2
        first = int(rng.choice(self.starts[gap]))
        _, height, width, _ = self.frames.shape
        scale = min(scale, height / size[0], width / size[1])
        high, wide = int(size[0] * scale), int(size[1] * scale)
        top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        return Place(self, first, gap, top, left, high, wide)

    def time(self, first: int, middle: int, last: int) -> float:
        """When a triplet's middle frame was taken, between the first (0) and the last (1)."""
        lasting = np.exp(self._lasting[first:last] - self._lasting[first])
        return float(lasting[: middle - first].sum() / lasting.sum())

    def motion(self, first: int, last: int, top: int, bottom: int, left: int, right: int) -> float:
        """The mean difference from each frame to the next, in about that box."""
        rows, columns = self._sums.shape[1] - 1, self._sums.shape[2] - 1
        y0, x0 = min(top // _CELL, rows - 1), min(left // _CELL, columns - 1)
        y1, x1 = max(y0 + 1, min(bottom // _CELL, rows)), max(x0 + 1, min(right // _CELL, columns))
        before, after = self._sums[first], self._sums[last]
        box = after[y1, x1] - after[y0, x1] - after[y1, x0] + after[y0, x0]
        box -= before[y1, x1] - before[y0, x1] - before[y1, x0] + before[y0, x0]
        return float(box) / ((last - first) * (y1 - y0) * (x1 - x0))


@dataclass(frozen=True)
class Place:
    """A crop of a triplet."""

    stretch: Stretch
    first: int
    gap: int
    top: int
    left: int
    height: int
    width: int

    @property
    def motion(self) -> float:
        return self.stretch.motion(
            self.first,
            self.first + self.gap,
            self.top,
            self.top + self.height,
            self.left,
            self.left + self.width,
        )

    def time(self, middle: int) -> float:
        """When frame first + middle was taken, between first (0) and first + gap (1)."""
        return self.stretch.time(self.first, self.first + middle, self.first + self.gap)

    def flows(self, size: tuple[int, int]) -> Tensor:
        """See `Stretch.flows`."""
        return self.stretch.flows(self, size)

    def cut(self, middle: int, size: tuple[int, int]) -> list[Tensor]:
        """The frames first, first + middle and first + gap: (3, H, W) uint8 each, scaled down to that size."""
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
    """The span's frames, (H, W, 3) uint8 RGB; fewer where the file has fewer than it promised."""
    height, width = span.size
    try:
        with av.open(str(span.path)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            rate, base = stream.average_rate, stream.time_base
            frames: Iterator[av.VideoFrame] = file.decode(stream)
            if span.first and rate and base:
                start = span.first / rate + (stream.start_time or 0) * base
                file.seek(int(start / base), stream=stream)  # to the key frame before
                begin = float(start) - 1e-4
                frames = dropwhile(lambda frame: frame.time is not None and frame.time < begin, frames)
            else:
                frames = islice(frames, span.first, None)
            for frame in islice(frames, span.count):
                yield frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    except (av.error.FFmpegError, OSError) as error:
        raise TrainingDataError(f"{span.path} cannot be decoded ({error}): replace or remove it") from error


def _measure(frames: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """From each frame to the next: mean differences by cell, (T - 1, rows, columns); whether both are of one shot."""
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
