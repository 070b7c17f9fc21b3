"""A look at the pictures of a video before it is planned: how their fields lie, and how much each differs.

Most videos are looked at in a few pieces, which costs little however long they are.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import subprocess
from array import array
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
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
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as lines:
        try:
            both = _source(path, info, **begins).filter("trim", end_frame=frames).filter_multi_output("split")
            scans = both[1].filter(
                "idet", intl_thres=1.3
            )  # by default fine patterns that stand still seem combed
            for key in ("single", "repeated"):
                name = f"lavfi.idet.{key}.current_frame"
                scans = scans.filter("metadata", "print", key=name, file=f"pipe:{write_end}")
            command = ffmpeg.command(
                _changes(both[0], info).output("pipe:1", format="rawvideo", fps_mode="passthrough"),
                scans.output("-", format="null"),
            )
            process = ffmpeg.Process(command, stdout=subprocess.PIPE, pass_fds=[write_end])
        finally:
            os.close(write_end)
        with process:
            changes = list(_read_changes(process, info, check, progressed))
            found = KEY.findall(lines.read())  # some 30 KB, which the pipe holds
            _check_ended(process)
    said = {key: [value.decode() for name, value in found if name == key] for key in (b"single", b"repeated")}
    return Piece(said[b"single"], said[b"repeated"], changes)


def changes(
    path: Path,
    info: VideoInfo,
    timeline: Timeline,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
) -> Sequence[float]:
    """How far each frame of the timeline differs from the one before it, as ``Piece.changes`` has it; first 0."""
    read_end, write_end = os.pipe()
    found = array("d", bytes(8 * len(timeline.times)))
    with open(read_end, "rb") as lines:
        try:
            frames = fields.filtered(_source(path, info), timeline.fields)
            both = frames.filter_multi_output("split")
            unit = fields.unit(info.time_base, timeline.fields)
            command = ffmpeg.command(
                _changes(both[0], info).output("pipe:1", format="rawvideo", fps_mode="passthrough"),
                stamps_output(both[1].filter("scale", 16, 16), f"pipe:{write_end}", unit),
            )
            process = ffmpeg.Process(command, stdout=subprocess.PIPE, pass_fds=[write_end])
        finally:
            os.close(write_end)
        with process:
            stamps = read_stamps(lines)
            next(stamps, None)
            differences = _read_changes(process, info, check, progressed)
            for number, (change, stamp) in enumerate(zip(differences, stamps, strict=False), 1):
                if (index := timeline.index(stamp.time, number, info.time_base)) is not None:
                    found[index] = change
            _check_ended(process)
    found[0] = 0.0
    return found


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


def _changes(frames: Any, info: VideoInfo) -> Any:
    """The differences of neighbouring frames, as pictures whose samples are the means of squares in 16 bits."""
    differences = frames.filter("format", "gray").filter("tblend", all_mode="difference")
    return differences.filter("format", "gray16le").filter("scale", *_squares(info), flags="area")


def _read_changes(
    process: ffmpeg.Process, info: VideoInfo, check: Callable[[], None], progressed: Callable[[], None]
) -> Iterator[float]:
    columns, rows = _squares(info)
    moved = Moved(process.pid, progressed)
    with open(process.stdout.fileno(), "rb", closefd=False) as pictures:
        while True:
            while not select.select([pictures], [], [], CHECK_SECONDS)[0]:  # it decodes what comes before
                check()
                moved.look()
            if len(picture := pictures.read(2 * columns * rows)) < 2 * columns * rows:
                return
            check()
            progressed()
            yield float(np.frombuffer(picture, "<u2").max()) / 257


def all_of(pieces: Sequence[Piece], name: str) -> list[str]:
    """What all pieces say of their frames."""
    return list(itertools.chain.from_iterable(getattr(piece, name) for piece in pieces))
