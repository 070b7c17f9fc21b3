"""A look at the pictures of a video before it is planned: how their fields lie, and how much each differs.

Most videos are looked at in a few pieces, which costs little however long they are.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from worker.channel import CHECK_SECONDS, nothing
from worker.media import ffmpeg, fields
from worker.media.errors import MachineError, damaged
from worker.media.facts import VideoInfo
from worker.media.fields import Piece
from worker.media.moved import Moved
from worker.media.times import Timeline, read_stamps, stamps_output

WHOLE = 160  # frames of a video of which all are looked at
PIECES, PIECE = 4, 40  # of a longer one, and frames of each
LONG = 2000  # frames: in a longer one a piece begins with a key frame, which may be minutes before the wanted frame
SQUARE = 16  # samples on a side of the squares by which pictures differ; more where a picture has very many
MOST_SQUARES = 120  # in a row
LEVEL = 257  # of 16 bits, in one of 8
COLUMNS, ROWS = 64, 36  # of a picture that is to be blurred
BLURS = 2, 8  # deviations, in its columns: steps of up to about that many are told from longer ones
KEY = re.compile(rb"lavfi\.idet\.(single|repeated)\.current_frame=(\w+)")


def pieces(
    path: Path,
    info: VideoInfo,
    timeline: Timeline,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> list[Piece]:
    """Looks at the whole of a short video, and at a few pieces of a longer one.

    Where no seek finds a frame, as in a file without an index, the beginning is looked at.

    Raises:
        MachineError: the machine ended a look.
    """
    count = len(timeline.times)

    def piece(start: Fraction | None, frames: int) -> Piece:
        begins = {} if start is None else {"ss": f"{float(start):.6f}", "seek_timestamp": 1}
        if count > LONG:
            begins["noaccurate_seek"] = None
        return _piece(path, info, begins, frames, check, progressed)

    if count > WHOLE and not timeline.numbered:
        starts = [timeline.times[count * (2 * k + 1) // (2 * PIECES)] for k in range(PIECES)]
        if found := [each for each in (piece(start, PIECE) for start in starts) if each.scans]:
            return found
    return [piece(None, WHOLE)]


def _piece(
    path: Path,
    info: VideoInfo,
    begins: dict[str, Any],
    frames: int,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> Piece:
    with _Pipe() as steps, _Pipe() as lines:
        both = _source(path, info, **begins).filter("trim", end_frame=frames).filter_multi_output("split")
        scans = both[1].filter(
            "idet", intl_thres=1.3
        )  # by default fine patterns that stand still seem combed
        for key in ("single", "repeated"):
            name = f"lavfi.idet.{key}.current_frame"
            scans = scans.filter("metadata", "print", key=name, file=lines.url)
        outputs = [*_differences(both[0], info, steps), scans.output("-", format="null")]
        with _started(outputs, steps, lines) as process:
            changes = list(_read_changes(process, steps, info, check, progressed))
            found = KEY.findall(lines.file.read())  # some 30 KB, which the pipe holds
            _check_ended(process)
    said = {key: [value.decode() for name, value in found if name == key] for key in (b"single", b"repeated")}
    return Piece(said[b"single"], said[b"repeated"], changes)


def changes(
    path: Path,
    info: VideoInfo,
    timeline: Timeline,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """How far each frame of the timeline differs from the one before it: a row of ``Piece.changes``; first 0."""
    found = np.zeros((len(timeline.times), 1 + len(BLURS)), np.float32)
    with _Pipe() as steps, _Pipe() as lines:
        both = fields.filtered(_source(path, info), timeline.fields).filter_multi_output("split")
        unit = fields.unit(info.time_base, timeline.fields)
        stamped = stamps_output(both[1].filter("scale", 16, 16), lines.url, unit)
        with _started([*_differences(both[0], info, steps), stamped], steps, lines) as process:
            stamps = read_stamps(lines.file)
            next(stamps, None)
            differences = _read_changes(process, steps, info, check, progressed)
            for number, (change, stamp) in enumerate(zip(differences, stamps, strict=False), 1):
                if (index := timeline.index(stamp.time, number, info.time_base)) is not None:
                    found[index] = change
            _check_ended(process)
    found[0] = 0
    return found


class _Pipe:
    """A pipe that a process writes to and we read."""

    def __enter__(self) -> _Pipe:
        read_end, self.write_end = os.pipe()
        self.file = open(read_end, "rb")
        self.url = f"pipe:{self.write_end}"
        return self

    def __exit__(self, *_: object) -> None:
        self.handed_over()
        self.file.close()

    def handed_over(self) -> None:
        """Close our copy of the end that is written to, so that the other one's end is the end."""
        if self.write_end >= 0:
            os.close(self.write_end)
        self.write_end = -1


def _started(outputs: Sequence[Any], *pipes: _Pipe) -> ffmpeg.Process:
    ends = [pipe.write_end for pipe in pipes]
    process = ffmpeg.Process(ffmpeg.command(*outputs), stdout=subprocess.PIPE, pass_fds=ends)
    for pipe in pipes:
        pipe.handed_over()
    return process


def _check_ended(process: ffmpeg.Process) -> None:
    """Raise MachineError where the machine ended the look: what it saw until then is no finding."""
    process.wait()
    if isinstance(error := process.blame(damaged(process.messages)), MachineError):
        raise error


def _source(path: Path, info: VideoInfo, **options: Any) -> Any:
    """The frames in the size of the first: where another begins, FFmpeg would begin to compare anew."""
    frames = ffmpeg.source(path, reinit_filter=0, **options)[str(info.stream)]
    return frames.filter("scale", info.width, info.height)


def _squares(info: VideoInfo) -> tuple[int, int]:
    side = max(SQUARE, info.width // MOST_SQUARES)
    return -(-info.width // side), -(-info.height // side)


def _differences(frames: Any, info: VideoInfo, steps: _Pipe) -> list[Any]:
    """Outputs of the differences of neighbouring frames, as small pictures in 16 bits.

    To the standard output go the means, over squares, of how far they differ; to ``steps`` the means of the differences
    themselves, about the middle grey.
    """
    both = frames.filter("format", "gray").filter_multi_output("split")
    squares = _small(both[0].filter("tblend", all_mode="difference"), *_squares(info))
    blurred = _small(both[1].filter("tblend", all_mode="grainextract"), COLUMNS, ROWS)
    return [
        pictures.output(url, format="rawvideo", fps_mode="passthrough", flush_packets=1)
        for pictures, url in ((squares, "pipe:1"), (blurred, steps.url))
    ]


def _small(pictures: Any, columns: int, rows: int) -> Any:
    return pictures.filter("format", "gray16le").filter("scale", columns, rows, flags="area")


def _read_changes(
    process: ffmpeg.Process,
    steps: _Pipe,
    info: VideoInfo,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> Iterator[tuple[float, float, float]]:
    columns, rows = _squares(info)
    moved = Moved(process.pid, progressed)
    pictures, small = process.stdout.fileno(), steps.file.fileno()
    while True:
        while not select.select([pictures], [], [], CHECK_SECONDS)[0]:  # it decodes what comes before
            check()
            moved.look()
        picture, step = _read(pictures, 2 * columns * rows), _read(small, 2 * COLUMNS * ROWS)
        if not picture or not step:
            return
        check()
        progressed()
        most = float(np.frombuffer(picture, "<u2").max()) / LEVEL
        yield most, *_lengths(np.frombuffer(step, "<u2").reshape(ROWS, COLUMNS) / LEVEL - 128)


def _read(end: int, size: int) -> bytes:
    """The next ``size`` bytes of a pipe, and no more, for which `select` would wait then; b"" where it ends."""
    found = b""
    while len(found) < size:
        if not (more := os.read(end, size - len(found))):
            return b""
        found += more
    return found


def _lengths(step: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """How long a step is in a picture blurred by each of `BLURS`, in which motion of a few columns is linear."""
    power = np.abs(np.fft.rfft2(step)) ** 2
    power[:, 1:-1] *= 2  # the half that is not computed
    near, far = (float(np.sqrt((power * weights).mean())) for weights in _weights())
    return near, far


@cache
def _weights() -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """How much of each frequency's power a blur leaves."""
    down, across = np.fft.fftfreq(ROWS)[:, None], np.fft.rfftfreq(COLUMNS)
    return [np.exp(-((2 * np.pi * blur) ** 2) * (down**2 + across**2)) for blur in BLURS]
