"""The pictures of a video: its frames without interlacing, telecine and repeats, each at its time."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from service.jobs.notes import Note
from service.jobs.options import Options
from worker.channel import nothing
from worker.media import content, fields
from worker.media.decode import Frame
from worker.media.facts import Choice, VideoInfo
from worker.media.fields import Piece
from worker.media.moments import Moments
from worker.media.stills import ZIP
from worker.media.times import Timeline, frame_times
from worker.repeats import ALMOST, evened, pulled_down, repeated

PULLDOWN = Fraction(3, 2)  # how long one frame of soft telecine is shown, by how long the next is


@dataclass(frozen=True)
class Pictures:
    """Which frames of a video show a picture of their own, and when."""

    timeline: Timeline  #: of the frames that are decoded
    repeats: bytes = b""  #: for each of them 1 where it shows the picture of the one before; empty: none does
    #: When the pictures are shown, where that is not when their frames are; repeats are then left out
    moments: Sequence[Fraction] = ()
    notes: tuple[Note, ...] = ()

    @classmethod
    def find(
        cls,
        path: Path,
        info: VideoInfo,
        options: Options,
        choice: Choice,
        excerpt: Callable[[Timeline], Timeline],
        check: Callable[[], None] = nothing,
        progressed: Callable[[], None] = nothing,
    ) -> Pictures:
        """Look at the video. ``excerpt`` takes the part of a timeline that is wanted. Raises as `frame_times` does."""
        timeline = frame_times(path, check, progressed, choice)
        found = [] if info.container == ZIP else content.pieces(path, info, timeline, check, progressed)
        way, notes = fields.choose(info, options.deinterlace, found)
        if way:
            timeline = frame_times(path, check, progressed, choice, way)
        timeline = excerpt(timeline)
        is_film = any(note.code == "telecine-undone" for note in notes)
        repeats = b""
        if is_film or (options.dedup != "off" and not way and any(map(_seem_repeated, found))):
            changes = content.changes(path, info, timeline, check, progressed)
            repeats = pulled_down(changes) if is_film else repeated(changes, timeline.times)
        moments: Sequence[Fraction] = ()
        if not any(repeats):
            repeats = b""
        elif is_film or options.dedup == "retime":
            moments = Moments(evened(list(itertools.compress(timeline.times, map((0).__eq__, repeats)))))
        if options.deinterlace == "auto" and not repeats and _is_pulled_down(timeline.times):
            moments = Moments(evened(list(timeline.times)))
            what = "Frames are shown for two and three fields by turns (soft telecine): the result shows them evenly."
            notes.append(Note.of("telecine-undone", what))
        if repeats and not is_film:
            shown = "left out" if moments else "replaced by new ones"
            what = f"{sum(repeats)} of {len(timeline.times)} frames repeat the one before them: they are {shown}."
            notes.append(Note.of("frames-repeat", what))
        return cls(timeline, repeats, moments, tuple(notes))

    @property
    def numbers(self) -> Sequence[int]:
        """The frames that the schedule counts, by their numbers in ``timeline``, and the one that closes a loop."""
        every = range(len(self.timeline.times) + 1)
        if not self.moments or not self.repeats:
            return every
        return [index for index in every if not self.repeats[index : index + 1].strip(b"\0")]

    @property
    def times(self) -> Sequence[Fraction]:
        """When the frames are shown that the schedule counts."""
        return self.moments or self.timeline.times

    def rate(self, info: VideoInfo) -> Fraction:
        """Frames a second, of those that the schedule counts: a round number where one is right within 1 %."""
        if not self.moments:
            return info.average_rate * fields.rate(self.timeline.fields)
        measured = len(self.moments) / (self.timeline.end - self.moments[0])
        for count in range(1, 6):
            share = info.average_rate * round(measured / info.average_rate * count) / count
            if abs(share / measured - 1) < Fraction(1, 100):
                return share
        return measured


class Source(Iterable[Frame], Protocol):
    """Consecutive source frames; ``kill`` ends a wait for the next one. A ``Decoder``."""

    def kill(self) -> None: ...


class Kept:
    """The frames ``numbers`` of a source, numbered as they follow each other."""

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self._source = source
        self._numbers = numbers

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            place = bisect.bisect_left(self._numbers, frame.index)
            if place < len(self._numbers) and self._numbers[place] == frame.index:
                yield replace(frame, index=place)

    def kill(self) -> None:
        """End a wait for the next frame."""
        self._source.kill()


def _seem_repeated(piece: Piece) -> bool:
    changes = np.array([(0, 0, 0), *piece.changes], np.float32)
    return any(repeated(changes, [Fraction(k, 60) for k in range(len(changes))]))


def _is_pulled_down(times: Sequence[Fraction]) -> bool:
    """Whether nearly all frames are shown half as long again as, or two thirds as long as, the one before."""
    gaps = (after - time for time, after in pairwise(times))
    steps = (
        abs(max(pair) - PULLDOWN * min(pair)) <= ALMOST and max(pair) - min(pair) > ALMOST
        for pair in pairwise(gaps)
    )
    return len(times) >= 10 and sum(steps) >= 0.8 * (len(times) - 2)
