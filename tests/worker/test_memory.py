"""What the bookkeeping of a film takes grows little with its length: one of two hours needs a few dozen megabytes."""

from __future__ import annotations

import itertools
import tracemalloc
from array import array
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from service.api.options import parse_options
from worker.media.join import _stamps
from worker.media.moments import Moments
from worker.media.sandbox import probe
from worker.media.times import Timeline
from worker.pictures import Pictures
from worker.plan import JobPlan
from worker.schedule import segments

FRAMES = 4000  # of the source; twice as many of the result


def bytes_per_frame(work: Callable[[], object]) -> tuple[float, object]:
    """The most memory that `work` takes at a time, for each source frame, and what it gives."""
    tracemalloc.start()
    try:
        made = work()
        return tracemalloc.get_traced_memory()[1] / FRAMES, made
    finally:
        tracemalloc.stop()


@pytest.fixture
def plan(clip: Path) -> JobPlan:
    times = Moments(k * Fraction(1001, 30000) for k in range(FRAMES))
    pictures = Pictures(Timeline(times, FRAMES * Fraction(1001, 30000)))
    plan = replace(JobPlan.make(clip, probe(clip), parse_options({}), segment_frames=2000), pictures=pictures)
    return replace(plan, segments=tuple(segments(plan.schedule, 1000)))


@pytest.mark.parametrize(("most_plain", "written", "read"), [(FRAMES, 150, 60), (0, 100, 40)])
def test_a_plan_takes_few_bytes_a_frame(
    plan: JobPlan, monkeypatch: pytest.MonkeyPatch, most_plain: int, written: int, read: int
) -> None:
    monkeypatch.setattr("worker.plan.MOST_PLAIN", most_plain)
    size, text = bytes_per_frame(plan.to_json)
    assert size < written
    size, _ = bytes_per_frame(lambda: JobPlan.from_json(str(text)).schedule)
    assert size < read


def test_joining_takes_a_few_bytes_a_frame(plan: JobPlan) -> None:
    def join() -> object:
        shown = Moments(
            map(plan.shown, itertools.chain((frame.time for frame in plan.schedule), [plan.schedule.end]))
        )
        ticks = array("q", (round(moment * 60000) for moment in shown))
        orders = [array("l", [0, 2, 1, *range(3, 1000)]) for _ in range(len(plan.schedule) // 1000)]
        return sum(1 for _ in _stamps(orders, ticks))

    plan.schedule  # noqa: B018  it is there already
    size, count = bytes_per_frame(join)
    assert count == 2 * FRAMES and size < 120


def test_moments_are_the_times_that_they_were_made_of() -> None:
    times = [Fraction(0), Fraction(1, 25), Fraction(1001, 30000), Fraction(7)]
    moments = Moments(times)
    assert list(moments) == times and moments[1:3] == times[1:3] and len(moments) == 4
