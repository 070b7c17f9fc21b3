"""Frames that repeat the one before them: animation on twos and threes, 24 frames a second in 30, recorded screens."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

MOST = 8  # frames from one picture to the next: after a longer rest something begins to move
LONGEST = Fraction(1, 4)  # seconds, the same
CLEAR = 5  # times: how much more the pictures around a repeat differ than the repeat from what it repeats
SEEN = 2.0  # levels of 8 bits, over a square: a change that can be seen
LEAST, CYCLES = 5, 3  # pictures in a row, and times of a cadence, for the gaps between them to be one
ALMOST = Fraction(1, 500)  # seconds: how far clocks that count in milliseconds move a gap
CYCLE = 5  # frames of telecine, one of which repeats the one before
AROUND = 2  # cycles before and after one, that say where in it the repeat is
FILM = 0.6  # how much the repeats of film differ, by what the other frames do
LONGEST_CADENCE = 5  # pictures after which the gaps between them come again


def repeated(changes: Sequence[float], times: Sequence[Fraction]) -> bytes:
    """For each frame 1 where it shows the picture of the frame before it, else 0.

    ``changes`` are those of `worker.media.content.changes`. A repeat differs far less from the frame before it than the
    pictures before and after the repeats do from theirs. So noise and compression are forgiven, and a scene in which
    hardly anything moves has no repeats. What rests for longer than `MOST` frames or `LONGEST` seconds has none either.
    They must come in a cadence: who was recorded by a camera that stuttered gets each frame of it as it is.
    """
    change = np.asarray(changes, np.float64)
    count = len(change)
    found = np.zeros(count, np.uint8)
    change = np.append(change, np.inf)  # nothing comes after the last frame
    for length in range(1, min(MOST, count)):
        starts = np.arange(
            1, count - length + 1
        )  # of runs of so many repeats, each with a new picture after it
        most = np.max([change[starts + k] for k in range(length)], axis=0)
        before = np.where(starts > 1, change[starts - 1], np.inf)
        around = np.minimum(before, change[starts + length])
        for start in starts[(around >= SEEN) & (around >= CLEAR * most) & np.isfinite(around)]:
            if times[min(start + length, count - 1)] - times[start - 1] <= LONGEST:
                found[start : start + length] = 1
    return _steady(found).tobytes()


def pulled_down(changes: Sequence[float]) -> bytes:
    """For each frame 1 where telecine repeats the frame before it, else 0.

    Of every `CYCLE` frames it is the one that differs least from the one before it, summed over the cycles around, as
    compression makes a repeat differ. Where it differs as much as the others, the part is no film, and keeps all.
    """
    count = len(changes)
    change = np.asarray(changes, np.float64)
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


def _steady(found: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``found`` without the repeats that are in no cadence."""
    pictures = np.flatnonzero(found == 0)
    gaps = np.diff(pictures, append=len(found))
    steady = np.zeros(len(gaps), bool)
    for period in range(1, LONGEST_CADENCE + 1):
        length = max(CYCLES * period, LEAST)
        again = np.append(np.zeros(period, bool), gaps[period:] == gaps[:-period])
        for start in range(len(gaps) - length + 1):
            if again[start + period : start + length].all():
                steady[start : start + length] = True
    return found * np.repeat(steady, gaps).astype(np.uint8)


def evened(times: Sequence[Fraction]) -> list[Fraction]:
    """``times`` of pictures, with those evenly spaced that come in a cadence, such as gaps of 1, 1, 1 and 2.

    Each becomes the mean of the times around it over one cadence. No picture moves by as much as the longest gap. The
    first and the last stay.
    """
    gaps = [after - time for time, after in zip(times, times[1:], strict=False)]
    even = list(times)
    for k in range(1, len(times) - 1):
        for period in range(2, LONGEST_CADENCE + 1):
            low, high = k - period, k + period
            if low < 0 or high > len(gaps):
                break
            before, after = gaps[low:k], gaps[k:high]
            alike = all(abs(gap - other) <= ALMOST for gap, other in zip(before, after, strict=True))
            if alike and max(before) - min(before) > ALMOST:
                even[k] = _mean_around(times, k, period)
                break
    rising = all(one < other for one, other in zip(even, even[1:], strict=False))
    return even if rising else list(times)


def _mean_around(times: Sequence[Fraction], k: int, period: int) -> Fraction:
    """The mean of the times of a cadence around picture ``k``; its ends count half where that is an even number."""
    half = period // 2
    if period % 2:
        return sum(times[k - half : k + half + 1], Fraction()) / period
    whole = sum(times[k - half + 1 : k + half], Fraction())
    return (whole + (times[k - half] + times[k + half]) / 2) / period
