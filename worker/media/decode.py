"""Frames out of a video file: one FFmpeg process that writes planes to a pipe, as they are stored."""

from __future__ import annotations

import bisect
import itertools
import os
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from dain_core.runtime.pixels import PixelFormat
from worker.channel import nothing
from worker.media import ffmpeg
from worker.media.errors import damaged
from worker.media.facts import VideoInfo
from worker.media.times import read_stamps, stamps_output

Plane = np.ndarray[Any, np.dtype[Any]]

# A container's index finds the frames that are needed from this many frames ahead: no codec reorders further.
REORDER = 16
# Where there is no index, a seek lands anywhere, and the decoder needs a key frame before the first frame.
UNINDEXED = ("mpegts", "mpeg")
KEY_FRAME_SECONDS = 15


@dataclass(frozen=True)
class Frame:
    """A source frame: ``index`` in the list of frame times, ``time`` in seconds, planes Y, U and V."""

    index: int
    time: Fraction
    planes: tuple[Plane, ...]


class Decoder:
    """Source frames ``first`` to ``last`` inclusive, each exactly once, in ``info.working_format``.

    ``times`` are the presentation times of all frames of the video; each decoded frame is known by its own. A
    frame that the decoder does not give is held from the one before it, as a player would; ``held`` counts
    these. ``progressed`` is called for each decoded frame, those on the way to ``first`` among them. Iterating raises
    MediaError("damaged-video") where not one of the frames can be decoded.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        first: int,
        last: int,
        times: Sequence[Fraction],
        *,
        progressed: Callable[[], None] = nothing,
    ) -> None:
        self._path = path
        self._info = info
        self._first = first
        self._last = last
        self._times = times
        self._progressed = progressed
        self._format = PixelFormat.named(info.working_format)
        self._process: ffmpeg.Process | None = None
        self._messages = ""
        self._stopped = False
        self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._process:
            self._process.close()

    def kill(self) -> None:
        """Stop decoding; from any thread. The iteration then ends."""
        self._stopped = True
        if self._process:
            self._process.kill()

    def __iter__(self) -> Iterator[Frame]:
        wanted = self._first
        latest: tuple[Plane, ...] | None = None
        for time, planes in self._decoded():
            index = self._index(time)
            if latest is None:
                latest = planes  # nothing comes before the first frame: what follows stands in for it
            if index is not None and index >= wanted:
                yield from self._hold(wanted, min(index, self._last + 1), latest)
                if index <= self._last:
                    yield Frame(index, self._times[index], planes)
                wanted = index + 1
            if wanted > self._last:
                return
            latest = planes
        if self._stopped:
            return
        if latest is None or wanted == self._first:
            span = f"frames {self._first} to {self._last}"
            raise damaged(f"none of {span} can be decoded ({self._messages})")
        yield from self._hold(wanted, self._last + 1, latest)

    def _hold(self, start: int, stop: int, planes: tuple[Plane, ...]) -> Iterator[Frame]:
        for index in range(start, stop):
            self.held += 1
            yield Frame(index, self._times[index], planes)

    def _index(self, time: Fraction) -> int | None:
        """Which frame is shown at ``time``; None for one that the list of times does not have."""
        after = bisect.bisect_left(self._times, time)
        neighbours = range(max(after - 1, 0), min(after + 1, len(self._times)))
        near = min(neighbours, key=lambda i: abs(self._times[i] - time))
        return near if abs(self._times[near] - time) <= self._info.time_base else None

    def _decoded(self) -> Iterator[tuple[Fraction, tuple[Plane, ...]]]:
        """Decoded frames with their times, from ``first`` or a little before."""
        for seek in self._seeks():
            frames = self._run(seek)
            head = next(frames, None)
            if head and (seek is None or head[0] <= self._times[self._first]):
                return itertools.chain([head], frames)
            frames.close()  # the seek went too far: try from further back
        return iter(())

    def _seeks(self) -> Iterator[Fraction | None]:
        """Where to start decoding, in seconds after the start of the file: the nearest first, then safer."""
        begin = self._times[max(self._first - REORDER, 0)] - self._info.start
        indexed = self._info.container not in UNINDEXED
        for seek in (begin, begin - KEY_FRAME_SECONDS)[not indexed :]:
            if seek > 0:
                yield seek
        yield None

    def _run(self, seek: Fraction | None) -> Generator[tuple[Fraction, tuple[Plane, ...]]]:
        read_end, write_end = os.pipe()
        with open(read_end, "rb") as stamp_lines:
            try:
                command = self._command(seek, write_end)
                process = ffmpeg.Process(command, stdout=subprocess.PIPE, pass_fds=[write_end])
            finally:
                os.close(write_end)
            with process:
                self._process = process
                if self._stopped:
                    process.kill()
                stamps = read_stamps(stamp_lines)
                # The frame first: FFmpeg may not write its stamp before we have taken it.
                while (planes := self._read(process.stdout)) and (stamp := next(stamps, None)):
                    self._progressed()
                    yield stamp[0], planes
                process.wait()
                self._messages = process.messages

    def _command(self, seek: Fraction | None, stamps_fd: int) -> list[str]:
        """Decode once into two outputs: the planes, and a line with the timestamp of each frame.

        YUV keeps its range and its matrix; RGB is converted to what ``VideoInfo`` promises.
        """
        info = self._info
        options = {"ss": f"{float(seek):.6f}"} if seek is not None else {}
        options["max_pixels"] = str(max(2 * info.width * info.height, 1 << 20))  # room for codecs that pad
        source = ffmpeg.source(self._path, **options)[str(info.stream)]
        level = "full" if info.full_range else "limited"
        colors = {"out_color_matrix": "bt709"} if info.is_rgb else {"in_range": level}
        planes = source.filter("scale", info.width, info.height, out_range=level, **colors)
        planes = planes.filter("format", info.working_format)
        return ffmpeg.command(
            planes.output("pipe:1", format="rawvideo", fps_mode="passthrough"),
            stamps_output(source, f"pipe:{stamps_fd}", info.time_base),
        )

    def _read(self, pipe: IO[Any]) -> tuple[Plane, ...] | None:
        """The next frame, or None at the end; half a frame is the end."""
        pixels = self._format
        shapes = pixels.plane_shapes(self._info.width, self._info.height)
        data = np.empty(pixels.frame_bytes(self._info.width, self._info.height), np.uint8)
        rest = data.data
        while rest:
            count = os.readv(pipe.fileno(), [rest])
            if not count:
                return None
            rest = rest[count:]
        samples = data.view(pixels.dtype)
        bounds = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
        parts = np.split(samples, bounds)
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
