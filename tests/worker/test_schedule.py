from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.schedule import (
    Between,
    Copy,
    Factor,
    OutputFrame,
    Retime,
    Schedule,
    TargetRate,
    longest_gap,
    segments,
)

NTSC_FILM = Fraction(24000, 1001)


Clip = tuple[list[Fraction], Fraction]


def constant_rate(count: int, rate: Fraction, start: Fraction = Fraction(0)) -> Clip:
    return [start + i / rate for i in range(count)], start + count / rate


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    """Any clock, any start (also before zero), any gaps."""
    clock = draw(st.sampled_from([1000, 12800, 30000, 90000]))
    ticks = [draw(st.integers(-clock, 5 * clock))]
    gaps = st.integers(1, clock // 10)
    for gap in draw(st.lists(gaps, max_size=12)):
        ticks.append(ticks[-1] + gap)
    end = ticks[-1] + draw(gaps)
    return [Fraction(tick, clock) for tick in ticks], Fraction(end, clock)


rates = st.one_of(
    st.builds(Factor, st.integers(1, 8)),
    st.builds(TargetRate, st.sampled_from([NTSC_FILM, Fraction(60000, 1001), Fraction(60), Fraction(7)])),
)


def test_factor_two_puts_the_middle_between_neighbours_and_holds_the_last_frame() -> None:
    times, end = constant_rate(3, Fraction(25))
    half = Fraction(1, 2)
    assert list(Schedule(times, end, Factor(2))) == [
        OutputFrame(Fraction(0), Copy(0)),
        OutputFrame(Fraction(1, 50), Between(0, half)),
        OutputFrame(Fraction(2, 50), Copy(1)),
        OutputFrame(Fraction(3, 50), Between(1, half)),
        OutputFrame(Fraction(4, 50), Copy(2)),
        OutputFrame(Fraction(5, 50), Copy(2)),
    ]


def test_factor_divides_uneven_gaps_evenly() -> None:
    times = [Fraction(0), Fraction(1), Fraction(4)]
    frames = Schedule(times, Fraction(5), Factor(3))
    assert [frame.time for frame in frames[3:6]] == [1, 2, 3]
    third = Fraction(1, 3)
    assert [frame.action for frame in frames[3:6]] == [Copy(1), Between(1, third), Between(1, 2 * third)]


def test_film_to_sixty_is_an_exact_grid_and_an_exact_t() -> None:
    times, end = constant_rate(24000, NTSC_FILM)  # 1001 s
    schedule = Schedule(times, end, TargetRate(Fraction(60)))
    assert len(schedule) == 1001 * 60
    assert schedule[59999].time == Fraction(59999, 60)
    for k in range(0, len(schedule), 997):
        position = Fraction(k, 60) * NTSC_FILM
        whole = position.numerator // position.denominator
        distance = min(position - whole, whole + 1 - position) / NTSC_FILM
        if distance > Fraction(1, 2000) and whole < len(times) - 1:
            assert schedule[k].action == Between(whole, position - whole)


def test_target_at_the_source_rate_copies_every_frame() -> None:
    times, end = constant_rate(50, NTSC_FILM, start=Fraction(7, 5))
    assert [f.action for f in Schedule(times, end, TargetRate(NTSC_FILM))] == [Copy(i) for i in range(50)]


def test_times_rounded_to_milliseconds_still_copy_the_source_frames() -> None:
    exact, _ = constant_rate(100, NTSC_FILM)
    times = [Fraction(round(time * 1000), 1000) for time in exact]
    doubled = Schedule(times, Fraction(round(100 / NTSC_FILM * 1000), 1000), TargetRate(2 * NTSC_FILM))
    assert [frame.action for frame in doubled[::2]] == [Copy(i) for i in range(100)]
    assert all(isinstance(frame.action, Between) for frame in doubled[1:-1:2])


def test_dense_frames_are_not_swallowed_by_the_snap() -> None:
    times, end = constant_rate(100, Fraction(1000))
    doubled = Schedule(times, end, TargetRate(Fraction(2000)))
    assert [frame.action for frame in doubled[1:198:2]] == [Between(i, Fraction(1, 2)) for i in range(99)]


def test_a_single_frame_is_held() -> None:
    assert [f.action for f in Schedule([Fraction(3)], Fraction(4), Factor(3))] == [Copy(0)] * 3
    assert [f.time for f in Schedule([Fraction(3)], Fraction(4), TargetRate(Fraction(2)))] == [
        3,
        Fraction(7, 2),
    ]


def test_nothing_is_made_across_a_jump_of_the_clock() -> None:
    times, _ = constant_rate(12, Fraction(25))
    jumped = times + [time + 99 for time in times]
    end = jumped[-1] + Fraction(1, 25)
    assert longest_gap(jumped) == 1
    schedule = Schedule(jumped, end, TargetRate(Fraction(50)), longest_gap(jumped))
    across = [frame for frame in schedule if times[-1] <= frame.time < jumped[12]]
    assert len(across) > 4900 and {frame.action for frame in across} == {Copy(11)}
    assert sum(isinstance(frame.action, Between) for frame in schedule) == 22
    [gap] = schedule.long_gaps
    assert gap == (times[-1], jumped[12] - times[-1])
    tripled = Schedule(jumped, end, Factor(3), longest_gap(jumped))
    assert [frame.action for frame in tripled[33:37]] == [Copy(11)] * 3 + [Copy(12)]
    assert len(tripled) == 72


def test_slow_pictures_have_no_jump() -> None:
    """A slide show or a time lapse is interpolated as it was asked for."""
    times = [Fraction(2 * k) for k in range(6)]
    assert longest_gap(times) == 16
    schedule = Schedule(times, Fraction(12), Factor(2), longest_gap(times))
    assert schedule[1].action == Between(0, Fraction(1, 2)) and not schedule.long_gaps


@given(clips(), rates)
def test_counts_order_and_bounds(clip: Clip, rate: Retime) -> None:
    times, end = clip
    frames = list(Schedule(times, end, rate))
    if isinstance(rate, Factor):
        assert len(frames) == rate.n * len(times)
        assert [f.action for f in frames[:: rate.n]] == [Copy(i) for i in range(len(times))]
        assert [f.time for f in frames[:: rate.n]] == times
    else:
        assert [f.time for f in frames] == [times[0] + k / rate.rate for k in range(len(frames))]
        assert frames[-1].time < end < times[0] + len(frames) / rate.rate + Fraction(1, 1999)
    assert all(a.time < b.time for a, b in zip(frames, frames[1:], strict=False))
    for frame in frames:
        if isinstance(frame.action, Between):
            first, t = frame.action.first, frame.action.t
            assert 0 < t < 1
            assert times[first] + t * (times[first + 1] - times[first]) == frame.time


@given(clips(), rates, st.integers(1, 12))
def test_segments_cover_every_output_once(clip: Clip, rate: Retime, source_frames: int) -> None:
    times, end = clip
    schedule = Schedule(times, end, rate)
    parts = segments(schedule, source_frames)
    assert [part.index for part in parts] == list(range(len(parts)))
    outputs = [k for part in parts for k in range(part.first_output, part.stop_output)]
    assert outputs == list(range(len(schedule)))
    for part in parts:
        used = set()
        for frame in schedule[part.first_output : part.stop_output]:
            used |= {frame.source, frame.source + isinstance(frame.action, Between)}
        assert (min(used), max(used)) == (part.first_source, part.last_source)


def test_segments_are_even() -> None:
    times, end = constant_rate(121, Fraction(25))
    parts = segments(Schedule(times, end, Factor(2)), 60)
    assert [part.stop_output - part.first_output for part in parts] == [80, 80, 82]
    assert [(part.first_source, part.last_source) for part in parts] == [(0, 40), (40, 80), (80, 120)]


def test_the_last_segments_are_halved() -> None:
    times, end = constant_rate(2000, Fraction(25))
    for source_frames, whole, halves in ((100, 15, 10), (10, 192, 16)):
        lengths = [
            p.stop_output - p.first_output for p in segments(Schedule(times, end, Factor(2)), source_frames)
        ]
        assert lengths == [2 * source_frames] * whole + [source_frames] * halves


# The last source frame is shown so shortly that the output frame at its time is left out.
@example(([Fraction(0), Fraction(1, 60)], Fraction(51, 3000)), TargetRate(Fraction(60)), [1])
@given(clips(), rates, st.lists(st.integers(1, 5), max_size=12))
def test_a_schedule_that_grew_is_the_one_made_at_once(clip: Clip, rate: Retime, arrivals: list[int]) -> None:
    """Its frames while it grows are the first of all, and what has been made of them is never changed."""
    times, end = clip
    whole = list(Schedule(times, end, rate))
    rest = list(times[1:])
    growing = Schedule(times[:1], None, rate)
    for count in [*arrivals, len(rest)]:
        assert list(growing) == whole[: len(growing)] and len(growing) >= 1
        known = growing.times[-1]
        assert all(frame.time > known - Fraction(1, 1999) for frame in whole[len(growing) :])
        growing.extend(rest[:count])
        del rest[:count]
    growing.close(end)
    assert list(growing) == whole
    assert growing.average_rate == Schedule(times, end, rate).average_rate


def test_an_open_schedule_knows_no_end() -> None:
    schedule = Schedule([Fraction(0), Fraction(1)], None, Factor(2))
    for unknown in ("end", "average_rate"):
        with pytest.raises(ValueError, match="open"):
            getattr(schedule, unknown)
    with pytest.raises(ValueError, match="does not follow"):
        schedule.extend([Fraction(1)])
    schedule.close(Fraction(2))
    with pytest.raises(ValueError, match="closed"):
        schedule.extend([Fraction(3)])
    with pytest.raises(ValueError, match="closed"):
        schedule.close(Fraction(3))


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one source frame"):
        Schedule([], Fraction(1), Factor(2))
    with pytest.raises(ValueError, match="ends at"):
        Schedule([Fraction(1)], Fraction(1), Factor(2))
    with pytest.raises(ValueError, match="factor"):
        Factor(0)
    with pytest.raises(ValueError, match="frame rate"):
        TargetRate(Fraction(0))
    with pytest.raises(IndexError):
        Schedule([Fraction(0)], Fraction(1), Factor(2))[2]
