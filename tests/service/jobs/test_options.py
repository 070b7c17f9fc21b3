from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.options import Options, parse_rate
from service.jobs.problems import Problem


def test_factor_two_is_the_default() -> None:
    assert Options.parse({}) == Options(factor=2)
    assert Options.parse({}).rate is None


def test_options_survive_json() -> None:
    options = Options.parse(
        {"target_fps": "59.94", "quality": "20", "scene_threshold": "0.5", "audio": "none"}
    )
    assert options.target_fps == "60000/1001"
    assert options.rate == Fraction(60000, 1001)
    assert Options.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(
    ("speed", "stretch"), [("0.25", 4), ("1/3", 3), ("0.4", Fraction(5, 2)), ("1/16", 16)]
)
def test_slow_motion_is_exact_and_silent(speed: str, stretch: Fraction) -> None:
    options = Options.parse({"speed": speed})
    assert (options.factor, options.rate, options.stretch, options.audio) == (None, None, stretch, "none")
    assert Options.model_validate_json(options.model_dump_json()) == options
    assert Options.parse({"speed": speed, "target_fps": "60"}).rate == 60
    assert Options.parse({"factor": "4"}).stretch == 1


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
    ],
)
def test_rates_are_exact(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@given(st.fractions(min_value=1, max_value=1000, max_denominator=10**6))
def test_every_rate_survives_its_own_text(rate: Fraction) -> None:
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    "text", ["0", "1001", "-24", "1e2", "60/0", "nan", "inf", "60fps", "24000/1001/1", "9" * 40]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text[:20]):
        parse_rate(text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"factor": "1"}, ["factor", "'1'", "2 to 16"]),
        ({"factor": "17"}, ["factor", "'17'", "2 to 16"]),
        ({"factor": "2.5"}, ["factor", "'2.5'", "whole number"]),
        ({"target_fps": "fast"}, ["target_fps", "'fast'", "60000/1001"]),
        ({"factor": "2", "target_fps": "60"}, ["factor", "target_fps", "not both"]),
        ({"factor": "2", "speed": "0.5"}, ["factor", "speed", "not both"]),
        ({"speed": "1"}, ["speed", "'1'", "1/16 to below 1"]),
        ({"speed": "1/17"}, ["speed", "'1/17'", "1/16"]),
        ({"speed": "slow"}, ["speed", "'slow'", "1/3"]),
        ({"speed": "1/0"}, ["speed", "'1/0'"]),
        ({"speed": "0.5", "audio": "copy"}, ["slow motion", "audio"]),
        ({"speed": "0.5", "audio": "loud"}, ["audio", "'loud'"]),
        ({"model": "rife"}, ["model", "'rife'", "dain"]),
        ({"scene_threshold": "nan"}, ["scene_threshold", "'nan'", "0 to 1"]),
        ({"quality": "52", "audio": "loud"}, ["quality", "'52'", "0 (lossless) to 51", "audio", "'loud'"]),
        ({"fps": "60"}, ["no option 'fps'", "target_fps"]),
    ],
)
def test_a_fault_names_the_option_its_range_and_what_was_given(
    fields: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(Problem) as caught:
        Options.parse(fields)
    assert caught.value.status == 422
    for word in words:
        assert word in caught.value.detail
