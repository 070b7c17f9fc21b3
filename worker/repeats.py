"""Frames that repeat the one before them: in animation, film of 24 frames a second in 30, where frames were lost."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

#: Of each frame a row of `worker.media.fields.Piece.changes`
Changes = np.ndarray[Any, np.dtype[np.float32]]
Numbers = np.ndarray[Any, np.dtype[np.float64]]

MOST = 8  # frames from one picture of a cadence to the next
LONGEST = 0.25  # seconds, the same; where nothing is new for longer, it rests, or the recording stood still
FROZEN = 1.0  # seconds for which a recording may stand still, and motion lead on
CLEAR = 5  # times: how much more the pictures around a repeat differ than the repeat from what it repeats
SEEN = 2.0  # levels of 8 bits, over a square: a change that can be seen
LIKE = 0.5, 4.0  # the least and the most by which a gap's speed is like the speed around it
SHORT = 3  # frames from one picture to the next, within which nobody sees that something rests
LEAST, CYCLES = 5, 3  # pictures in a row, and times of a cadence, for the gaps between them to be one
ALMOST = Fraction(1, 500)  # seconds: how far clocks that count in milliseconds move a gap
ROUNDED = float(ALMOST)
CYCLE = 5  # frames of telecine, one of which repeats the one before
AROUND = 2  # cycles before and after one, that say where in it the repeat is
FILM = 0.6  # how much the repeats of film differ, by what the other frames do
LONGEST_CADENCE = 5  # pictures after which the gaps between them come again


def repeated(changes: Changes, times: Sequence[Fraction]) -> bytes:
    """For each frame 1 where it shows the picture of the frame before it, else 0.

    A repeat differs far less from the frame before it than the pictures before and after the repeats do from theirs. So
    noise and compression are forgiven, and a scene in which hardly anything moves has no repeats. What comes after
    tells whether a recording stood still, or what it shows: repeats come in a cadence, as in animation, or the picture
    after them is as far away as motion leads in all that time (see `_goes_on`).
    """
    if len(times) < 2:
        return bytes(len(times))
    seconds = np.array([float(time) for time in times])
    found = _resting(changes[:, 0].astype(np.float64), seconds)
    pictures = np.flatnonzero(found == 0)
    gaps = np.diff(pictures, append=len(found))
    spans = np.diff(seconds[pictures], append=2 * seconds[-1] - seconds[-2])
    repeats = _steady(gaps, spans)
    repeats[:-1] |= _goes_on(changes[pictures[1:], 1:].astype(np.float64), gaps[:-1], spans[:-1])
    return (found * np.repeat(repeats, gaps).astype(np.uint8)).tobytes()


def pulled_down(changes: Changes) -> bytes:
    """For each frame 1 where telecine repeats the frame before it, else 0.

    Of every `CYCLE` frames it is the one that differs least from the one before it, summed over the cycles around, as
    compression makes a repeat differ. Where it differs as much as the others, the part is no film, and keeps all.
    """
    count = len(changes)
    change = changes[:, 0].astype(np.float64)
    change = np.append(change, np.full(-count % CYCLE, change[-1])).reshape(-1, CYCLE)
    usual = np.maximum(np.median(change, axis=1, keepdims=True), SEEN)
    share = np.minimum(change / usual, 1)
    share[0, 0] = 1  # nothing comes before the first frame
    around = np.stack([share[max(k - AROUND, 0) : k + AROUND + 1].mean(axis=0) for k in range(len(share))])
    found = np.zeros(change.shape, np.uint8)
    cycles = np.arange(len(found))
    places = around.argmin(axis=1)
    found[cycles, places] = around[cycles, places] <= FILM
    return found.ravel()[:count].tobytes()


def _resting(change: Numbers, seconds: Numbers) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """For each frame 1 where nothing moves for up to `FROZEN`, between pictures that differ.

    Where it is for longer than in a cadence, the motion before and after must differ as clearly from the rest as the
    step between them does, which may be a cut.
    """
    count = len(change)
    found = np.zeros(count, np.uint8)
    change = np.append(change, np.inf)  # nothing comes after the last frame
    following = np.append(change[1:-1], (0, 0))
    most = np.zeros(count)
    for length in range(1, count):
        starts = np.arange(1, count - length + 1)  # of runs of so many repeats
        most = np.maximum(most[: len(starts)], change[starts + length - 1])
        lasts = seconds[np.minimum(starts + length, count - 1)] - seconds[starts - 1]
        if lasts.min() > FROZEN + ROUNDED:
            break
        before = np.where(starts > 1, change[starts - 1], np.inf)
        after = change[starts + length]
        motion = np.minimum(np.where(starts > 1, before, 0), following[starts + length])
        is_short = (length < MOST) & (lasts <= LONGEST + ROUNDED)
        around = np.minimum(np.minimum(before, after), np.where(is_short, np.inf, motion))
        clear = (
            (around >= SEEN) & (around >= CLEAR * most) & np.isfinite(around) & (lasts <= FROZEN + ROUNDED)
        )
        for start in starts[clear]:
            found[start : start + length] = 1
    return found


def _steady(gaps: np.ndarray[Any, Any], spans: Numbers) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which gaps, from one picture to the next in frames, come in a cadence; they last for ``spans`` seconds."""
    steady = np.zeros(len(gaps), bool)
    for period in range(1, LONGEST_CADENCE + 1):
        length = max(CYCLES * period, LEAST)
        again = np.append(np.zeros(period, bool), gaps[period:] == gaps[:-period])
        for start in range(len(gaps) - length + 1):
            if again[start + period : start + length].all():
                steady[start : start + length] = True
    return steady & (gaps <= MOST) & (spans <= LONGEST + ROUNDED)


def _goes_on(
    steps: Numbers, gaps: np.ndarray[Any, Any], spans: Numbers
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Across which gaps motion goes on: of ``steps``, each from one picture to the next, in blurred pictures.

    After a rest a thing begins to move from where it was; a step is then what motion does in one frame. Across repeats
    it is what motion does in all the time. Where that is too short to be seen as a rest, the step need not be so long.
    Across a long gap the pictures before and after it must follow each other closely: a light that blinks rests.
    """
    if len(gaps) < 2:
        return np.zeros(len(gaps), bool)
    speeds = steps / spans[:, None]
    sides = np.stack([np.roll(speeds, shift, axis=0) for shift in (1, -1)])
    sides[0, 0], sides[1, -1] = sides[1, 0], sides[0, -1]  # the first and the last have but one
    shares = speeds / (sides.mean(axis=0) + 1e-9)
    least = np.where(gaps <= SHORT, LIKE[0] / gaps, LIKE[0])
    is_like = (shares.max(axis=1) >= least) & (shares.min(axis=1) <= LIKE[1])
    is_close = (gaps <= MOST) & (spans <= LONGEST + ROUNDED)
    beside = np.append(True, is_close[:-1]) & np.append(is_close[1:], True)
    return is_like & (is_close | beside)


def evened(times: Sequence[Fraction]) -> list[Fraction]:
    """``times`` of pictures, with those evenly spaced that come in a cadence, such as gaps of 1, 1, 1 and 2.

    Three times make a cadence. Each becomes the mean of the times around it over one cadence. No picture moves by as
    much as the longest gap. The first and the last stay.
    """
    gaps = [after - time for time, after in zip(times, times[1:], strict=False)]
    even = list(times)
    for k in range(1, len(times) - 1):
        for period in range(2, LONGEST_CADENCE + 1):
            before, after = gaps[max(k - period, 0) : k], gaps[k : k + period]
            further = gaps[max(k - 2 * period, 0) : max(k - period, 0)], gaps[k + period : k + 2 * period]
            again = _alike(before, after) and any(_alike(before, cycle) for cycle in further)
            if again and max(before) - min(before) > ALMOST:
                even[k] = _mean_around(times, k, period)
                break
    rising = all(one < other for one, other in zip(even, even[1:], strict=False))
    return even if rising else list(times)


def _alike(gaps: Sequence[Fraction], others: Sequence[Fraction]) -> bool:
    return len(gaps) == len(others) and all(
        abs(gap - other) <= ALMOST for gap, other in zip(gaps, others, strict=True)
    )


def _mean_around(times: Sequence[Fraction], k: int, period: int) -> Fraction:
    """The mean of the times of a cadence around picture ``k``; its ends count half where that is an even number."""
    half = period // 2
    if period % 2:
        return sum(times[k - half : k + half + 1], Fraction()) / period
    whole = sum(times[k - half + 1 : k + half], Fraction())
    return (whole + (times[k - half] + times[k + half]) / 2) / period
