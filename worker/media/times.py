"""When each frame of a video is shown."""

from __future__ import annotations

import bisect
import itertools
import re
import subprocess
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from service.jobs.notes import Note
from worker.channel import nothing
from worker.media import ffmpeg, fields, sandbox
from worker.media.errors import MachineError, damaged
from worker.media.facts import DEFAULT_CHOICE, Choice, usual_gap
from worker.media.moments import Moments, unpacked

REORDER = 16  # frames: no codec shows one further than this from where it is decoded
DISORDERED = Note.of(
    "times-disordered",
    "The file gives its pictures times in another order than their own; they are shown in their own order.",
)


DAMAGED = Note.of("frames-damaged", "The video is damaged: what could be decoded of such frames is shown.")
#: What FFmpeg says of frames that it decodes as far as it can.
DAMAGE = re.compile(
    "error while decoding|concealing|corrupt|damaged|CRC mismatch|Invalid data found|rror at MB|slice mismatch|runcated"
)


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown, and how a frame is known again. Times are seconds on the file's clock."""

    times: Sequence[Fraction]  #: strictly increasing; `Moments` where there may be many
    end: Fraction  #: when the last frame is no longer shown
    checksums: Sequence[int] = ()  #: of decoded frames; none where packets tell the times
    numbered: bool = (
        False  #: a frame is known by its number alone, since the decoder gives it no time of its own
    )
    notes: tuple[Note, ...] = ()  #: what is wrong with the file
    skipped: int = 0  #: frames of the file that come before these, and are not wanted
    lead: tuple[Fraction, ...] = ()  #: when the last of those are shown
    frame_bytes: int = 0  #: size of the first decoded frame; 0 where packets tell the times
    fields: str = ""  #: how frames are made of fields: a way of `worker.media.fields`
    lost: tuple[Fraction, ...] = ()  #: when frames are shown that the file has, and that cannot be decoded

    def index(self, time: Fraction, number: int, near: Fraction) -> int | None:
        """The index of the frame that is shown at ``time``; None where there is none within ``near`` seconds of it.

        ``number`` frames of the file were decoded before it.
        """
        if self.numbered:
            index = number - self.skipped
            return index if 0 <= index < len(self.times) else None
        if time >= self.end or (self.lead and abs(self.lead[-1] - time) < abs(self.times[0] - time)):
            return None  # of the frames around an excerpt, on a clock that ticks once a frame
        after = bisect.bisect_left(self.times, time)
        neighbours = range(max(after - 1, 0), min(after + 1, len(self.times)))
        index = min(neighbours, key=lambda i: abs(self.times[i] - time))
        return index if abs(self.times[index] - time) <= near else None

    def excerpt(self, start: Fraction, end: Fraction | None) -> Timeline:
        """The frames that are shown from ``start`` on and before ``end``; ValueError where there are none."""
        first = bisect.bisect_left(self.times, start)
        stop = len(self.times) if end is None else bisect.bisect_left(self.times, end)
        if first >= stop:
            raise ValueError("no frame is shown then")
        until = self.times[stop] if stop < len(self.times) else self.end
        lost = [time for time in self.lost if start <= time and (end is None or time < end)]
        return replace(
            self,
            times=self.times[first:stop],
            end=until if end is None else min(until, end),
            checksums=self.checksums[first:stop],
            skipped=first,
            lost=tuple(lost),
            lead=tuple(self.times[max(first - REORDER, 0) : first]),
        )


def frame_times(
    path: Path,
    check: Callable[[], None] = nothing,
    progressed: Callable[[], None] = nothing,
    choice: Choice = DEFAULT_CHOICE,
    way: str = "",
) -> Timeline:
    """The exact presentation time of every frame to be displayed, and the end of the last one.

    ``way`` says how frames are made of fields, see `worker.media.fields`.

    Times are read from packets, without decoding, where each packet is known to be one shown frame. Other videos are
    decoded, which takes its time. ``check`` is called several times a second, and may raise to stop. ``progressed`` is
    called when a part of the file or the time of a frame has been read.

    Raises:
        MediaError: the file is no video, or is damaged.
        MachineError: the machine was too slow, or ended the look.
    """
    packets = sandbox.look(
        "times",
        path,
        *choice.arguments,
        read=_Packets.read,
        check=check,
        progressed=progressed,
    )
    if packets.exact and not way:
        return Timeline(packets.times, packets.end)
    timeline = _decoded_times(path, packets.stream, packets.time_base, way, check, progressed)
    if packets.timeless:
        unit, count = fields.unit(packets.time_base, way), len(timeline.times)
        times = Moments.of(array("q", range(count)), unit)
        return replace(timeline, times=times, end=count * unit, numbered=True)
    if way:
        return timeline
    if packets.disordered and timeline.times != packets.times:
        return replace(timeline, notes=(*timeline.notes, DISORDERED))
    if packets.whole and len(timeline.times) < len(packets.times):
        return replace(timeline, lost=tuple(_missing(packets.times, timeline.times)))
    return timeline


def _missing(times: Iterable[Fraction], among: Iterable[Fraction]) -> list[Fraction]:
    """Those of ``times`` that are not ``among`` others; both are in order."""
    rest = iter(among)
    there, lost = next(rest, None), []
    for time in times:
        while there is not None and there < time:
            there = next(rest, None)
        if time != there:
            lost.append(time)
    return lost


class _Packets(NamedTuple):
    """What the packets of the video stream say; ``exact`` where each of them is known to be one frame of its time."""

    stream: int
    time_base: Fraction
    times: Moments
    end: Fraction
    exact: bool
    disordered: bool  # pictures are in another order than their times
    timeless: bool  # frames are an even `time_base` apart
    whole: bool  # each packet is one frame that is shown

    @classmethod
    def read(cls, answer: dict[str, Any]) -> _Packets:
        found = answer["times"]
        unit = Fraction(found["time_base"])
        times = Moments.of(unpacked(found["pts"]), unit)
        rest = {name: found[name] for name in cls._fields if name not in ("time_base", "times", "end")}
        return cls(time_base=unit, times=times, end=found["end"] * unit, **rest)


def _decoded_times(
    path: Path,
    stream: int,
    time_base: Fraction,
    way: str,
    check: Callable[[], None],
    progressed: Callable[[], None],
) -> Timeline:
    """What the decoder says of each frame, by decoding all of them."""
    frames = fields.filtered(ffmpeg.source(path)[str(stream)], way)
    command = ffmpeg.command(stamps_output(frames, "pipe:1", fields.unit(time_base, way)))
    given, checksums = Moments(), array("I")
    first = last = None
    rising = True
    with ffmpeg.Process(command, stdout=subprocess.PIPE) as process:
        with open(process.stdout.fileno(), "rb", closefd=False) as lines:
            for stamp in read_stamps(lines):
                rising = rising and (last is None or stamp.time > last.time)
                first, last = first or stamp, stamp if last is None else max(last, stamp)
                given.append(stamp.time)
                checksums.append(stamp.checksum)
                progressed()
                check()
        process.wait()
        notes = (DAMAGED,) if process.complains(DAMAGE) else ()
        error = process.blame(damaged(f"no frame of it could be decoded ({process.messages})"))
    if not first or not last or isinstance(error, MachineError):
        raise error
    in_order = given if rising else sorted(set(given))
    end = last.time + (last.length or usual_gap(in_order, Fraction(1, 25)))
    times = given if rising else Moments(_apart(sorted(given), end))
    return Timeline(times, end, checksums, not rising, notes, frame_bytes=first.size, fields=way)


def _apart(times: Sequence[Fraction], end: Fraction) -> list[Fraction]:
    """``times`` (in order) with frames of one time spread evenly up to the next time, the last ones up to ``end``.

    >>> _apart([Fraction(0), Fraction(1), Fraction(1)], Fraction(2))
    [Fraction(0, 1), Fraction(1, 1), Fraction(3, 2)]
    """
    groups = [(time, len(list(group))) for time, group in itertools.groupby(times)]
    nexts = [time for time, _ in groups[1:]] + [end]
    return [
        time + (after - time) * k / count
        for (time, count), after in zip(groups, nexts, strict=True)
        for k in range(count)
    ]


class Stamp(NamedTuple):
    """What ``read_stamps`` reads of a frame: its time and length in seconds, and the size and checksum of its bytes."""

    time: Fraction
    length: Fraction
    size: int
    checksum: int


def stamps_output(frames: Any, url: str, unit: Fraction) -> Any:
    """An output of ffmpeg-python that says when each of ``frames`` is shown, for ``read_stamps``.

    Times are whole numbers of ``unit``.
    """
    return frames.output(
        url,
        format="framecrc",
        vcodec="rawvideo",
        noautoscale=None,
        flush_packets=1,
        fps_mode="passthrough",
        enc_time_base=f"{unit.numerator}:{unit.denominator}",
    )


def read_stamps(lines: Iterable[bytes]) -> Iterator[Stamp]:
    """A stamp for each frame of an output that ``stamps_output`` made."""
    unit = Fraction(0)
    for line in lines:
        if line.startswith(b"#tb 0:"):
            unit = Fraction(line.split(b":")[1].decode().strip())
        elif not line.startswith(b"#"):
            _, _, pts, length, size, checksum, *_ = line.split(b",")
            yield Stamp(int(pts) * unit, int(length) * unit, int(size), int(checksum, 16))
