"""When each output frame is shown, and what it is made of.

Pure arithmetic on Fractions: no video, no numbers of limited precision. A schedule is computed, not stored:
any of its frames costs a bisection, so a task that makes one segment of a film does not build the film.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import overload


def _near(gap: Fraction) -> Fraction:
    """How close two times must be to mean the same moment, where frames are ``gap`` apart.

    Containers that count in milliseconds (Matroska, FLV) move each frame by up to half of one. Where frames
    are so dense that this would be seen, only a sixteenth of their distance is forgiven.
    """
    return min(Fraction(1, 2000), gap / 16)


@dataclass(frozen=True)
class Copy:
    """Source frame ``source``, untouched."""

    source: int


@dataclass(frozen=True)
class Blend:
    """A new frame between source frames ``first`` and ``first + 1``, at ``0 < t < 1``."""

    first: int
    t: Fraction


@dataclass(frozen=True)
class OutputFrame:
    """One frame of the result; ``time`` in seconds on the source's own clock."""

    time: Fraction
    action: Copy | Blend

    @property
    def source(self) -> int:
        """The last source frame that is not after this one."""
        return self.action.source if isinstance(self.action, Copy) else self.action.first


@dataclass(frozen=True)
class Factor:
    """``n`` frames for each source frame: the frame itself, and ``n - 1`` evenly spaced up to the next.

    Nothing comes after the last source frame, so it is shown ``n`` times: N frames become exactly n * N, and
    the video is as long as it was.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"factor must be 1 or more, got {self.n}")


@dataclass(frozen=True)
class TargetRate:
    """Frames at exactly ``k / rate`` seconds after the first source frame, until the end of the last."""

    rate: Fraction

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"the target frame rate must be above 0, got {self.rate}")


Retime = Factor | TargetRate


class Schedule(Sequence[OutputFrame]):
    """The output frames of a video, in order.

    ``times`` are the presentation times of the source frames (strictly increasing, seconds), ``end`` is when
    the last of them stops being shown.
    """

    def __init__(self, times: Sequence[Fraction], end: Fraction, rate: Retime) -> None:
        if not times:
            raise ValueError("a schedule needs at least one source frame")
        if end <= times[-1]:
            raise ValueError(f"the video ends at {end}, not after its last frame at {times[-1]}")
        self.times = times
        self.end = end
        self.rate = rate
        if isinstance(rate, Factor):
            self._length = rate.n * len(times)
        else:
            # A frame that would be seen for no more than a rounding error is left out; never the only one.
            shown = end - times[0] - _near(1 / rate.rate)
            self._length = max(1, math.ceil(shown * rate.rate))

    @property
    def average_rate(self) -> Fraction:
        """Output frames per second: exactly the rate that was asked for, or the average that a factor gives."""
        if isinstance(self.rate, TargetRate):
            return self.rate.rate
        return self._length / (self.end - self.times[0])

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> OutputFrame: ...
    @overload
    def __getitem__(self, index: slice) -> list[OutputFrame]: ...
    def __getitem__(self, index: int | slice) -> OutputFrame | list[OutputFrame]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"output frame {index} of {self._length}")
        index %= self._length
        if isinstance(self.rate, Factor):
            return self._divided(*divmod(index, self.rate.n), self.rate.n)
        return self._at(self.times[0] + index / self.rate.rate)

    def _divided(self, source: int, step: int, steps: int) -> OutputFrame:
        last = source == len(self.times) - 1
        gap = (self.end if last else self.times[source + 1]) - self.times[source]
        t = Fraction(step, steps)
        action = Copy(source) if last or not step else Blend(source, t)
        return OutputFrame(self.times[source] + gap * t, action)

    def _at(self, time: Fraction) -> OutputFrame:
        source = bisect.bisect_right(self.times, time) - 1
        if source == len(self.times) - 1:
            return OutputFrame(time, Copy(source))
        after, gap = time - self.times[source], self.times[source + 1] - self.times[source]
        if after <= _near(gap):
            return OutputFrame(time, Copy(source))
        if gap - after <= _near(gap):
            return OutputFrame(time, Copy(source + 1))
        return OutputFrame(time, Blend(source, after / gap))


def build(times: Sequence[Fraction], end: Fraction, rate: Retime) -> Schedule:
    """The schedule of a video with frames at ``times``, the last shown until ``end``, retimed by ``rate``."""
    return Schedule(times, end, rate)


MOST_HALVED = 8  # segments


@dataclass(frozen=True)
class Segment:
    """Output frames ``first_output`` up to (not including) ``stop_output``, and the source frames they need.

    ``last_source`` is included: the last new frame of a segment needs the frame to its right, so neighbouring
    segments share one source frame.
    """

    index: int
    first_source: int
    last_source: int
    first_output: int
    stop_output: int


def segments(schedule: Schedule, source_frames: int) -> list[Segment]:
    """Cut a schedule evenly into segments of at most about ``source_frames`` source frames each.

    The last ones are cut in halves, so that several workers come to their ends at about the same time.
    """
    if source_frames < 1:
        raise ValueError(f"a segment needs at least one source frame, got {source_frames}")
    total = len(schedule.times)
    count = math.ceil(total / source_frames)
    halved = min(count // 4, MOST_HALVED)
    halves = [*range(0, 2 * (count - halved), 2), *range(2 * (count - halved), 2 * count)]
    cuts = sorted({_first_output(schedule, total * i // (2 * count)) for i in halves} | {len(schedule)})
    found: list[Segment] = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        final = schedule[stop - 1]
        last_source = final.source + isinstance(final.action, Blend)
        found.append(Segment(len(found), schedule[start].source, last_source, start, stop))
    return found


def _first_output(schedule: Schedule, source: int) -> int:
    """The first output frame whose source frame is ``source`` or later."""
    return bisect.bisect_left(schedule, source, key=lambda frame: frame.source)
