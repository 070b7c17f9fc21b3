"""Exact numbers, and options as they are stored."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.options import MAX_DENOMINATOR, SLOWEST, Options, parse_rate, parse_speed


def test_stored_options_are_read_as_they_were_written() -> None:
    options = Options(target_fps="60000/1001", quality=20, scene_threshold=0.5, audio="none")
    assert options.rate == Fraction(60000, 1001)
    assert Options.model_validate_json(options.model_dump_json()) == options


def test_options_of_another_version_are_read_and_kept() -> None:
    """Unknown options stay, missing ones have their default, and a range that grew is no fault."""
    options = Options.model_validate_json('{"factor": 64, "codec": "av1", "model": "dain-next"}')
    assert (options.factor, options.model, options.audio) == (64, "dain-next", "copy")
    assert Options.model_validate_json(options.model_dump_json()) == options
    assert '"codec":"av1"' in options.model_copy(update={"model": "dain"}).model_dump_json()


def test_an_option_that_is_no_number_is_found_on_reading() -> None:
    for text in ("fast", "1/0", "-1", "0"):
        with pytest.raises(ValueError, match="positive fraction"):
            Options(speed=text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60", Fraction(60)),
        ("60.0", Fraction(60)),
        ("24.00", Fraction(24)),
        ("12.5", Fraction(25, 2)),
        ("60000/1001", Fraction(60000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("23.97", Fraction(24000, 1001)),
        ("23.976023976", Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("47.952", Fraction(48000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("119.88", Fraction(120000, 1001)),
        ("59.95", Fraction(1199, 20)),  # near an NTSC rate is not an NTSC rate
        ("12.99", Fraction(1299, 100)),
        ("12.345678", Fraction(12345678, 10**6)),
        ("14.985014985", Fraction(15000, 1001)),
        ("25.000000001", Fraction(25)),
        ("999.999999999", Fraction(1000)),
        ("59.94005994005994", Fraction(60000, 1001)),  # as floating point prints it
        ("33.333333333333336", Fraction(100, 3)),
    ],
)
def test_rates_are_exact(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@given(st.fractions(min_value=1, max_value=1000, max_denominator=10**6))
def test_every_rate_survives_its_own_text(rate: Fraction) -> None:
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "speed"),
    [("0.333333333", "1/3"), ("0.111111111", "1/9"), ("0.142857143", "1/7"), ("0.3333333333333333", "1/3")],
)
def test_a_speed_with_many_digits_is_the_fraction_that_is_meant(text: str, speed: str) -> None:
    assert str(parse_speed(text)) == speed


@given(st.decimals(min_value=1, max_value=1000, places=9).map(str) | st.floats(1, 1000).map(repr))
def test_every_decimal_becomes_a_rate_that_can_be_read_back(text: str) -> None:
    rate = parse_rate(text)
    assert parse_rate(str(rate)) == rate == Options(target_fps=str(rate)).rate
    assert rate.denominator <= MAX_DENOMINATOR
    assert abs(rate - Fraction(text)) <= Fraction(1, 100)  # 23.98 means 24000/1001


@given(
    st.decimals(min_value="0.0625", max_value="0.9999", places=9).map(str)
    | st.floats(0.0625, 0.999).map(repr)
)
def test_every_decimal_becomes_a_speed_that_can_be_read_back(text: str) -> None:
    speed = parse_speed(text)
    assert parse_speed(str(speed)) == speed and SLOWEST <= speed < 1
    assert abs(speed - Fraction(text)) <= Fraction(1, MAX_DENOMINATOR)


def test_a_number_that_rounds_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1"):
        parse_speed("0.999999999")
    with pytest.raises(ValueError, match="1000 frames"):
        parse_rate("1000.000002")


@pytest.mark.parametrize(
    "text", ["0", "1001", "-24", "1e2", "60/0", "nan", "inf", "60fps", "24000/1001/1", "9" * 40]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text[:20]):
        parse_rate(text)
