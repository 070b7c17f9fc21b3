"""When each output frame is shown, and what it is made of.

Pure arithmetic on Fractions: no video, no numbers of limited precision. A schedule is computed, not stored: any of its
frames costs a bisection, so a task that makes one segment of a film does not build the film. It can also grow while
source frames arrive, as those of a live stream do.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import overload

from worker.channel import checked, nothing
from worker.media.moments import Moments


def _near(gap: Fraction) -> Fraction:
    """How close two times must be to mean the same moment, where frames are ``gap`` apart.

    Containers that count in milliseconds (Matroska, FLV) move each frame by up to half of one. Where frames are so
    dense that this would be seen, only a sixteenth of their distance is forgiven.
    """
    return min(Fraction(1, 2000), gap / 16)


@dataclass(frozen=True)
class Copy:
    """Source frame ``source``, untouched."""

    source: int


@dataclass(frozen=True)
class Between:
    """A new frame between source frames ``first`` and ``first + span``, at ``0 < t < 1``."""

    first: int
    t: Fraction
    span: int = 1

    @property
    def second(self) -> int:
        """The source frame to its right."""
        return self.first + self.span


@dataclass(frozen=True)
class OutputFrame:
    """One frame of the result; ``time`` in seconds on the source's own clock."""

    time: Fraction
    action: Copy | Between

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

LONG = Fraction(1)  # seconds
FRAMES_OF_A_LONG_GAP = 8


def longest_gap(times: Sequence[Fraction]) -> Fraction:
    """How far apart two of the frames at ``times`` may be for new ones to be made between them, in seconds.

    It is a second, and eight times the usual gap where frames are rare: across a jump of a clock, or where a recorder
    was stopped, nothing moved from one frame to the next.
    """
    every = max(1, len(times) // 1000)
    gaps = sorted(times[k + 1] - times[k] for k in range(0, len(times) - 1, every))
    return max(LONG, FRAMES_OF_A_LONG_GAP * gaps[len(gaps) // 2]) if gaps else LONG


class Schedule(Sequence[OutputFrame]):
    """The output frames of a video, in order.

    ``times`` are the presentation times of the source frames in seconds, strictly increasing. ``end`` is when the last
    of them stops being shown. Without it the schedule is open: `extend` adds source frames, and `close` sets the end.
    An open schedule has those output frames that no further source frame can change. They are the first frames of the
    schedule that all source frames make at once.

    Between frames that are more than ``longest_gap`` seconds apart nothing is made: the first of them is held. None is
    no limit. In a ``loop`` the first frame follows the last: there it has the number ``len(times)``. Source frames
    whose byte in ``repeats`` is not 0 show the picture of the frame before: new ones lead over them, in their places.

        >>> schedule = Schedule([Fraction(0)], None, Factor(2))
        >>> len(schedule)
        1
        >>> schedule.extend([Fraction(1)])
        >>> [frame.time for frame in schedule]
        [Fraction(0, 1), Fraction(1, 2), Fraction(1, 1)]
        >>> schedule.close(Fraction(2))
        >>> [frame.time for frame in schedule]
        [Fraction(0, 1), Fraction(1, 2), Fraction(1, 1), Fraction(3, 2)]

    Raises:
        ValueError: ``times`` is empty, or ``end`` does not lie after it.
    """

    def __init__(
        self,
        times: Iterable[Fraction],
        end: Fraction | None,
        rate: Retime,
        longest_gap: Fraction | None = None,
        loop: bool = False,
        repeats: bytes = b"",
    ) -> None:
        self.rate = rate
        self.repeats = repeats
        self.loop = loop
        self.longest_gap = longest_gap
        self._times = Moments()
        self._end: Fraction | None = None
        self._length = 0
        self.extend(times)
        if not self._times:
            raise ValueError("a schedule needs at least one source frame")
        if end is not None:
            self.close(end)

    @property
    def times(self) -> Sequence[Fraction]:
        """When the source frames are shown."""
        return self._times

    @property
    def end(self) -> Fraction:
        """When the last source frame stops being shown; ValueError while the schedule is open."""
        if self._end is None:
            raise ValueError("the schedule is open: its end is not known")
        return self._end

    def extend(self, times: Iterable[Fraction]) -> None:
        """Add the source frames that are shown at ``times``, in order, after those there are.

        Raises:
            ValueError: they do not follow the last one, or the schedule is closed.
        """
        if self._end is not None:
            raise ValueError("the schedule is closed: no frame can follow its end")
        added = times if isinstance(times, Moments) else list(times)
        if self._times and added and added[0] <= self._times[-1]:
            raise ValueError(f"a source frame at {added[0]} does not follow one at {self._times[-1]}")
        self._times.extend(added)
        if self._times:
            self._length = self._settled()

    def close(self, end: Fraction) -> None:
        """Say that no source frame follows, and that the last one is shown until ``end``.

        Raises:
            ValueError: ``end`` is not after the last frame, or the schedule is closed already.
        """
        if self._end is not None:
            raise ValueError("the schedule is closed already")
        if end <= self._times[-1]:
            raise ValueError(f"the video ends at {end}, not after its last frame at {self._times[-1]}")
        self._end = end
        if isinstance(self.rate, Factor):
            self._length = self.rate.n * len(self._times)
        else:
            # A frame that would be seen for no more than a rounding error is left out; never the only one.
            shown = end - self._times[0] - _near(1 / self.rate.rate)
            self._length = max(1, math.ceil(shown * self.rate.rate))

    def _settled(self) -> int:
        """How many output frames are the same whatever follows."""
        if isinstance(self.rate, Factor):
            return self.rate.n * (len(self._times) - 1) + 1
        # The video may end right after its last frame, and an output frame close to the end be left out.
        shown = self._times[-1] - self._times[0] - _near(1 / self.rate.rate)
        return max(1, math.floor(shown * self.rate.rate) + 1)

    @property
    def long_gaps(self) -> list[tuple[Fraction, Fraction]]:
        """Where a frame is held: for each such place when that frame is shown, and the seconds until the next."""
        pairs = itertools.pairwise(self._times)
        return [(time, after - time) for time, after in pairs if self._is_long(after - time)]

    @property
    def average_rate(self) -> Fraction:
        """Output frames a second: exactly the rate that was asked for, or the average that a factor gives.

        Raises:
            ValueError: a factor gives it, and the schedule is open.
        """
        if isinstance(self.rate, TargetRate):
            return self.rate.rate
        return self._length / (self.end - self._times[0])

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
        return self._at(self._times[0] + index / self.rate.rate)

    def _divided(self, source: int, step: int, steps: int) -> OutputFrame:
        """Output frame ``step`` of the ``steps`` that begin with source frame ``source``."""
        start = self._times[source]
        if not step:
            return OutputFrame(start, self._copy(source))
        time = start + self._gap(source) * Fraction(step, steps)
        return OutputFrame(time, self._between(source, time))

    def _at(self, time: Fraction) -> OutputFrame:
        """The output frame that is shown at ``time``."""
        source = bisect.bisect_right(self._times, time) - 1
        if source == len(self._times) - 1 and not self.loop:
            return OutputFrame(time, self._copy(source))
        after, gap = time - self._times[source], self._gap(source)
        if after <= _near(gap):
            return OutputFrame(time, self._copy(source))
        if gap - after <= _near(gap):
            return OutputFrame(time, self._copy(source + 1))
        return OutputFrame(time, self._between(source, time))

    def _copy(self, source: int) -> Copy | Between:
        """What is shown at the time of source frame ``source``: that, unless it is a repeat."""
        return self._between(source, self._times[source]) if self._repeats(source) else Copy(source)

    def _between(self, source: int, time: Fraction) -> Copy | Between:
        """What is shown at ``time``, from source frame ``source`` on and before the next."""
        first, second = source, source + 1
        while self._repeats(first):
            first -= 1
        while self._repeats(second):
            second += 1
        is_last = second == len(self._times) and not self.loop
        if is_last or self._is_long(self._gap(source)):
            return Copy(source)
        start = self._times[first]
        after = self.end if second == len(self._times) else self._times[second]
        return Between(first, (time - start) / (after - start), second - first)

    def _repeats(self, source: int) -> bool:
        return source < len(self.repeats) and bool(self.repeats[source])

    def _gap(self, source: int) -> Fraction:
        """How long source frame ``source`` is shown."""
        after = self.end if source == len(self._times) - 1 else self._times[source + 1]
        return after - self._times[source]

    def _is_long(self, gap: Fraction) -> bool:
        return self.longest_gap is not None and gap > self.longest_gap


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


def segments(schedule: Schedule, source_frames: int, check: Callable[[], None] = nothing) -> list[Segment]:
    """Cut a schedule evenly into segments of at most about ``source_frames`` source frames each.

    The last ones are cut in halves, so that several workers come to their ends at about the same time.
    `check` may raise to stop.
    """
    if source_frames < 1:
        raise ValueError(f"a segment needs at least one source frame, got {source_frames}")
    total = len(schedule.times)
    count = math.ceil(total / source_frames)
    halved = min(count // 4, MOST_HALVED)
    halves = [*range(0, 2 * (count - halved), 2), *range(2 * (count - halved), 2 * count)]
    starts = {_first_output(schedule, total * i // (2 * count)) for i in checked(halves, check)}
    cuts = sorted(starts | {len(schedule)})
    found: list[Segment] = []
    for start, stop in checked(zip(cuts, cuts[1:], strict=False), check):
        final = schedule[stop - 1]
        last_source = final.action.second if isinstance(final.action, Between) else final.source
        found.append(Segment(len(found), schedule[start].source, last_source, start, stop))
    return found


def _first_output(schedule: Schedule, source: int) -> int:
    """The first output frame whose source frame is ``source`` or later."""
    return bisect.bisect_left(schedule, source, key=lambda frame: frame.source)
