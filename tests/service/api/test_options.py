"""What a request may ask for: the options, their ranges, and the sentences of a refusal."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from service.api.options import parse_options, parse_request
from service.jobs.options import Handling, Options
from service.jobs.problems import Problem


def test_factor_two_is_the_default() -> None:
    assert parse_options({}) == Options(factor=2)
    assert parse_options({}).rate is None


@pytest.mark.parametrize(
    ("speed", "stretch"), [("0.25", 4), ("1/3", 3), ("0.4", Fraction(5, 2)), ("1/16", 16)]
)
def test_slow_motion_is_exact_and_silent(speed: str, stretch: Fraction) -> None:
    options = parse_options({"speed": speed})
    assert (options.factor, options.rate, options.stretch, options.audio) == (None, None, stretch, "none")
    assert parse_options({"speed": speed, "target_fps": "60"}).rate == 60
    assert parse_options({"factor": "4"}).stretch == 1


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
        ({"mask": "logo.png"}, ["part `mask` of a form", "tus"]),
        ({"meta": "{}"}, ["no option 'meta'", "did you mean 'metadata'"]),
        ({"priority": "urgent"}, ["priority", "low, normal or high"]),
        ({"reference": ""}, ["reference", "1 to 128"]),
        ({"reference": "r" * 129}, ["reference", "1 to 128"]),
        ({"reference": "two\nlines"}, ["reference", "printable"]),
        ({"metadata": "user=42"}, ["metadata", "'user=42'", "JSON object"]),
        ({"metadata": '["user"]'}, ["metadata", "JSON object"]),
        ({"metadata": '{"user": 42}'}, ["metadata", "JSON object of texts"]),
        ({"metadata": '{"user": "\\ud800"}'}, ["metadata", "JSON object of texts"]),
        ({"metadata": json.dumps({"user": "é" * 2047})}, ["metadata", "4096 bytes"]),
        ({"metadata": json.dumps({str(n): "" for n in range(17)})}, ["metadata", "16 keys"]),
        ({"metadata": "[" * 9000}, ["metadata", "JSON object"]),
    ],
)
def test_a_fault_names_the_option_its_range_and_what_was_given(
    fields: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(Problem) as caught:
        parse_request(fields)
    assert caught.value.status == 422
    for word in words:
        assert word in caught.value.detail


@pytest.mark.parametrize(
    "character", ["\x7f", "\x80", "\x9b", "\x9f", "\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069"]
)
def test_a_note_has_no_character_that_a_terminal_acts_on(character: str) -> None:
    text = f"order{character}7"
    for fields in (
        {"reference": text},
        {"metadata": json.dumps({"note": text})},
        {"metadata": json.dumps({text: ""})},
    ):
        with pytest.raises(Problem) as caught:
            parse_request(fields)
        assert character not in caught.value.detail
    assert parse_request({"reference": "הזמנה 7 – größe\xa0🎬"})[1].reference == "הזמנה 7 – größe\xa0🎬"


def test_what_steers_the_service_alone_is_no_option_of_the_picture() -> None:
    metadata = {"user": "é" * 2046}
    fields = {"factor": "4", "priority": "high", "reference": "order 7", "metadata": json.dumps(metadata)}
    assert parse_request(fields) == (
        Options(factor=4),
        Handling(priority="high", reference="order 7", metadata=metadata),
    )
    assert parse_request({}) == (Options(factor=2), Handling())
