"""Frames out of a video file: one FFmpeg process that writes planes to a pipe, as they are stored."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np

from dain_core.runtime.pixels import PixelFormat
from service.jobs.notes import Note
from worker.channel import nothing
from worker.media import ffmpeg, fields
from worker.media.errors import MachineError, MediaError, damaged
from worker.media.facts import VideoInfo
from worker.media.times import DAMAGE, DAMAGED, REORDER, Timeline, read_stamps, stamps_output

Plane = np.ndarray[Any, np.dtype[Any]]

# Seconds to go back for a key frame. Where a container has no index, a seek lands anywhere.
BACK = (0, 15, 120)
UNINDEXED = ("mpegts", "mpeg")

# The decoders of these codecs say which frames are key frames, and what follows a key frame needs nothing before it.
# Videos of other codecs are decoded from their start, however far in the wanted frames are.
KEYED = {
    *(
        "av1",
        "ffv1",
        "flv1",
        "h263",
        "h264",
        "hevc",
        "mpeg1video",
        "mpeg2video",
        "mpeg4",
        "msmpeg4v2",
        "msmpeg4v3",
    ),
    *("theora", "vc1", "vp8", "vp9", "wmv1", "wmv2", "wmv3"),
    *(
        "dnxhd",
        "dvvideo",
        "ffvhuff",
        "huffyuv",
        "jpeg2000",
        "mjpeg",
        "png",
        "prores",
        "rawvideo",
        "utvideo",
        "v210",
    ),
}
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own leave alpha out
CONVERTIBLE = {
    0,
    1,
    2,
    4,
    5,
    6,
    7,
    9,
}  # matrices that FFmpeg's scaler knows, in the code points of ITU-T H.273
WHOLE, OTHER = 4, 8  # bytes that `_sized` makes of a frame: one of the video's size, or of another
FROM_KEY = "key+not(isnan(prev_selected_t))"  # the first key frame and all frames after it


@dataclass(frozen=True)
class Frame:
    """Source frame ``index``: its time in seconds on the source's clock, and its planes Y, U and V."""

    index: int
    time: Fraction
    planes: tuple[Plane, ...]


class _Decoded(NamedTuple):
    """What the decoder gives: the place in the timeline, None where that has no such frame.

    A frame of another size than the video's has been scaled.
    """

    place: int | None
    checksum: int
    is_scaled: bool
    planes: tuple[Plane, ...]


class Decoder:
    """Source frames ``first`` to ``last`` inclusive, each exactly once and in order, in ``info.decoded_format``.

    After the last frame of the timeline comes the first one again, with the number that follows, where ``last`` is that
    number: what comes between the last and the first closes a loop.

    Each frame is the same, bit for bit, as if the video were decoded from its start. A frame that the decoder does
    not give is held: the frame before it is given in its place, as a player does. ``held`` counts held frames, and
    ``notes`` say what else is not as it was, both of the frames ``told`` alone, or of all. ``progressed`` is called for
    each decoded frame, those on the way to ``first`` among them.

    Iterating raises MediaError("damaged-video") where none of the frames can be decoded, and MachineError where the
    machine ended the decoder.

        with Decoder(path, info, 100, 199, frame_times(path)) as decoder:
            for frame in decoder:
                print(frame.index, frame.time, frame.planes[0].mean())
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        first: int,
        last: int,
        timeline: Timeline,
        *,
        told: range | None = None,
        progressed: Callable[[], None] = nothing,
    ) -> None:
        self._path = path
        self._info = info
        self._first = first
        self._last = min(last, len(timeline.times) - 1)
        self._again = last > self._last
        self._timeline = timeline
        self._told = range(len(timeline.times)) if told is None else told
        self._progressed = progressed
        self._format = PixelFormat.named(info.decoded_format)
        self._process: ffmpeg.Process | None = None
        self._blame: Callable[[MediaError], MediaError] = lambda error: error
        self._messages = ""
        self._stopped = False
        self._loop: Decoder | None = None
        self.held = 0
        self._firsts: dict[
            str, Fraction
        ] = {}  # code of a note -> when the first frame that it is about is shown
        self._scaled = 0
        self._is_damaged = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._process:
            self._process.close()

    def kill(self) -> None:
        """Stop decoding; any thread may call this. The iteration then ends."""
        self._stopped = True
        if self._process:
            self._process.kill()
        if self._loop:
            self._loop.kill()

    def __iter__(self) -> Iterator[Frame]:
        yield from self._through()
        if self._again and not self._stopped:
            times, arguments = self._timeline.times, (self._path, self._info, 0, 0, self._timeline)
            with Decoder(*arguments, progressed=self._progressed) as self._loop:
                for frame in self._loop:
                    yield Frame(len(times), self._timeline.end, frame.planes)

    def _through(self) -> Iterator[Frame]:
        wanted = self._first
        latest: tuple[Plane, ...] | None = None
        for index, _, is_scaled, planes in self._decoded():
            if latest is None:
                latest = planes  # nothing comes before the first frame: what follows stands in for it
            if index is not None and index >= wanted:
                yield from self._hold(wanted, min(index, self._last + 1), latest)
                if index <= self._last:
                    if is_scaled and index in self._told:
                        self._scaled += 1
                        self._firsts.setdefault("size-changes", self._timeline.times[index])
                    yield Frame(index, self._timeline.times[index], planes)
                wanted = index + 1
            if wanted > self._last:
                return
            latest = planes
        if self._stopped:
            return
        span = f"frames {self._first} to {self._last}"
        error = self._blame(damaged(f"none of {span} can be decoded ({self._messages})"))
        if latest is None or wanted == self._first or isinstance(error, MachineError):
            raise error
        yield from self._hold(wanted, self._last + 1, latest)

    def _hold(self, start: int, stop: int, planes: tuple[Plane, ...]) -> Iterator[Frame]:
        for index in range(start, stop):
            if index in self._told:
                self.held += 1
                self._firsts.setdefault("frames-held", self._timeline.times[index])
            yield Frame(index, self._timeline.times[index], planes)

    @property
    def notes(self) -> list[Note]:
        """What of the frames that were given is not as it was. Ask once all are taken."""

        def noted(code: str, what: str) -> Note:
            return Note.of(code, what, time=self._firsts[code] - self._info.start)

        notes = [DAMAGED] if self._is_damaged else []
        if self.held:
            what = "could not be decoded. The frame before is shown in their place."
            notes.append(noted("frames-held", f"{_frames(self.held)} of the video {what}"))
        if self._scaled:
            size = f"{self._info.width}x{self._info.height}"
            what = f"are of another size than {size}, to which they are scaled with their shape kept."
            notes.append(noted("size-changes", f"{_frames(self._scaled)} of the video {what}"))
        return notes

    def _decoded(self) -> Iterator[_Decoded]:
        """Decoded frames from ``first`` or a little before, of the nearest seek that is proven to be exact."""
        for seek in self._seeks():
            frames = self._run(seek)
            before = list(itertools.islice(self._until_proven(frames), 1))
            if before or self._stopped:
                return itertools.chain(before, frames)
            frames.close()
        return self._run(None)

    def _seeks(self) -> Iterator[Fraction]:
        """Times to start decoding at: the nearest first, then safer ones."""
        timeline = self._timeline
        if timeline.numbered or self._info.codec not in KEYED or self._info.alpha_stream is not None:
            return
        # A container's index finds the frames that are needed from a few frames ahead.
        before = [*timeline.lead, *timeline.times[max(self._first - REORDER, 0) : self._first + 1]]
        begins = timeline.times[0] if timeline.skipped == 0 else self._info.start
        for back in BACK[self._info.container in UNINDEXED :]:
            seek = before[max(len(before) - 1 - REORDER, 0)] - back
            if seek > begins:
                yield seek

    def _until_proven(self, frames: Iterator[_Decoded]) -> Iterator[_Decoded]:
        """The frame of a seek that proves the seek, where there is one.

        A seek begins with a key frame: `_command` sees to that. It has gone far enough back where this is not after
        the first wanted frame. Where checksums are known, the first wanted frame must have its own, too: the times
        that a container does not store are guessed, and guessed otherwise after a seek.
        """
        checksums = self._timeline.checksums
        for frame in frames:
            if frame.place is None:
                continue
            if frame.place > self._first:
                return
            if not checksums or (frame.place == self._first and frame.checksum == checksums[self._first]):
                yield frame

    @property
    def _origin(self) -> Fraction:
        """The time that the decoder gives as 0: pictures in a folder are numbered from the first that is wanted."""
        return self._timeline.times[self._first] if self._path.is_dir() else Fraction(0)

    def _run(self, seek: Fraction | None) -> Generator[_Decoded]:
        read_end, write_end = os.pipe()
        with open(read_end, "rb") as stamp_lines:
            try:
                command = self._command(seek, write_end)
                process = ffmpeg.Process(command, stdout=subprocess.PIPE, pass_fds=[write_end])
            finally:
                os.close(write_end)
            whole = self._timeline.frame_bytes if self._timeline.checksums else WHOLE
            try:
                with process:
                    self._process = process
                    if self._stopped:
                        process.kill()
                    stamps = read_stamps(stamp_lines)
                    # The frame first: FFmpeg may not write its stamp before we have taken it.
                    for number in itertools.count():
                        if not (planes := self._read(process.stdout)) or not (stamp := next(stamps, None)):
                            break
                        self._progressed()
                        time = stamp.time + self._origin
                        index = self._timeline.index(time, number, self._info.time_base)
                        yield _Decoded(index, stamp.checksum, bool(whole) and stamp.size != whole, planes)
                    process.wait()
                    self._messages, self._blame = process.messages, process.blame
            finally:
                # In the midst of frames that refer to each other, FFmpeg complains of good ones, too.
                if seek is None or self._info.container not in UNINDEXED:
                    self._is_damaged |= process.complains(DAMAGE)

    def _command(self, seek: Fraction | None, stamps_fd: int) -> list[str]:
        """Decode once into two outputs: the planes, and a line with the timestamp and the checksum of each frame.

        YUV keeps its range and its matrix; RGB is converted to what ``VideoInfo`` promises. After a seek, what
        comes before the first key frame is left out: it may lack frames that it refers to.
        """
        info = self._info
        options: dict[str, Any] = {"max_pixels": max(2 * info.width * info.height, 1 << 20)}  # codecs pad
        if seek is not None:
            options |= {"ss": f"{float(seek):.6f}", "seek_timestamp": 1, "flags": "-output_corrupt"}
        if info.alpha and info.codec in ALPHA_DECODERS:
            options[f"c:{info.stream}"] = ALPHA_DECODERS[info.codec]
        if self._path.is_dir():
            first = self._timeline.skipped + self._first
            decoded = ffmpeg.pictures(self._path, first, 1 / info.time_base, info.codec, **options)["v:0"]
        else:
            source = ffmpeg.source(self._path, **options)
            decoded = source[str(info.stream)]
            if info.alpha_stream is not None:
                decoded = ffmpeg.merged([decoded, source[str(info.alpha_stream)]], "alphamerge")
        decoded = decoded.filter("select", "1" if seek is None else FROM_KEY)
        if info.matrix not in CONVERTIBLE:  # else FFmpeg refuses the frames, though nothing is converted
            decoded = decoded.filter("setparams", colorspace="bt709")
        if info.codec == "exr":  # which holds light as such
            shown = {"transfer": "iec61966-2-1", "primaries": "bt709", "matrix": "gbr"}
            light = {"transferin": "linear", "primariesin": "bt709", "matrixin": "gbr"}
            decoded = decoded.filter("zscale", **light, **shown).filter("format", "gbrp16le")
        both = fields.filtered(decoded, self._timeline.fields).filter_multi_output("split")
        level = "full" if info.full_range else "limited"
        colors = {"out_color_matrix": "bt709"} if info.is_rgb else {"in_range": level}
        planes = _fitted(both[0], info, out_range=level, **colors)
        # Where no checksum is wanted, a look at every sample is too much.
        stamped = both[1] if self._timeline.checksums else _sized(both[1], info)
        return ffmpeg.command(
            planes.output("pipe:1", format="rawvideo", fps_mode="passthrough"),
            stamps_output(stamped, f"pipe:{stamps_fd}", fields.unit(info.time_base, self._timeline.fields)),
        )

    def _read(self, pipe: IO[Any]) -> tuple[Plane, ...] | None:
        """The planes of the next frame, or None at the end. Half a frame counts as the end."""
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


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _sized(frames: Any, info: VideoInfo) -> Any:
    """Tiny pictures in place of ``frames``, of WHOLE or OTHER bytes."""
    rows = f"if(eq(iw,{info.width})*eq(ih,{info.height}),{WHOLE},{OTHER})/2"
    return frames.filter("scale", 2, rows, flags="neighbor").filter("format", "gray")


def _fitted(frames: Any, info: VideoInfo, **colors: Any) -> Any:
    """``frames`` in the working format. Those of another size keep their shape: bars fill what is left."""
    width, height = info.width, info.height
    shape = float(Fraction(width, height) * info.sample_aspect_ratio)
    is_whole = f"eq(iw,{width})*eq(ih,{height})"
    columns = f"if({is_whole}+gte(dar,{shape}),{width},max(2,2*round({width}/2*dar/{shape})))"
    rows = f"if({is_whole}+lte(dar,{shape}),{height},max(2,2*round({height}/2*{shape}/dar)))"
    fitted = frames.filter("scale", columns, rows, **colors).filter("format", info.decoded_format)
    return fitted.filter("pad", width, height, "2*trunc((ow-iw)/4)", "2*trunc((oh-ih)/4)")
