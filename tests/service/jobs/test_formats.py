"""Which containers, codecs and pixels go together, and the sentences about those that do not."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from service.api.options import parse_options
from service.jobs import formats
from service.jobs.formats import CODECS, CONTAINERS, PLANES, holds_alpha, parse_bitrate
from service.jobs.problems import Problem


def test_the_names_of_the_options_are_those_of_the_tables() -> None:
    assert get_args(formats.ContainerName) == tuple(CONTAINERS)
    assert get_args(formats.CodecName) == ("auto", *CODECS)
    assert get_args(formats.PixelFormatName) == ("source", "compatible", *PLANES)
    assert all(codec in CODECS for kind in CONTAINERS.values() for codec in kind.codecs)


@pytest.mark.parametrize(
    ("codec", "planes", "made"),
    [
        ("h264", "yuv422p10le", "yuv422p10le"),
        ("av1", "yuv422p10le", "yuv420p10le"),
        ("prores", "yuv420p", "yuv422p10le"),
        ("prores", "yuva420p", "yuva444p10le"),
        ("dnxhr", "yuv444p", "yuv444p10le"),
        ("dnxhr", "yuv420p", "yuv422p"),
        ("vp9", "yuva444p10le", "yuva420p"),
        ("h264_nvenc", "yuv422p10le", "yuv444p"),
        ("png", "yuv420p10le", "rgb48be"),
        ("png", "yuva420p", "rgba"),
        ("jpeg", "yuv422p10le", "yuvj422p"),
        ("exr", "yuva420p", "gbrapf32le"),
    ],
)
def test_a_codec_keeps_as_much_of_the_planes_as_it_can(codec: str, planes: str, made: str) -> None:
    assert CODECS[codec].pixels_for(planes) == made


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"codec": "prores"}, "mp4 holds no prores: choose the codec h264, hevc, av1, vp9"),
        ({"codec": "prores"}, "for prores the container mkv or mov."),
        ({"container": "mov", "codec": "prores", "pixel_format": "compatible"}, "no browser plays prores"),
        ({"codec": "av1", "pixel_format": "yuv444p"}, "it can have yuv420p or yuv420p10le."),
        ({"container": "gif", "preset": "slow"}, "gif has no presets"),
        ({"container": "mkv", "codec": "ffv1", "max_bitrate": "8M"}, "the bitrate of ffv1 cannot be capped"),
        ({"container": "webm", "audio": "aac"}, "choose the container mp4, mkv or mov"),
        ({"container": "png", "audio": "best"}, "png holds no sound"),
        ({"audio": "stretch"}, "give speed"),
        ({"speed": "0.5", "audio": "best"}, "none or stretch"),
        ({"container": "tar"}, "container was 'tar'"),
        ({"max_bitrate": "9"}, "50k to 1000M"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_options(options)
    assert caught.value.slug == "invalid-option"
    assert sentence in caught.value.detail


def test_bitrates_are_read() -> None:
    assert [parse_bitrate(text) for text in ("8M", "1.5M", "800k", 64000)] == [
        8_000_000,
        1_500_000,
        800_000,
        64_000,
    ]


def test_alpha_has_its_places() -> None:
    able = [name for name in CONTAINERS if holds_alpha(name)]
    assert able == ["webm", "gif", "apng", "webp", "png", "exr"]
    assert holds_alpha("mov", "prores") and holds_alpha("mkv", "ffv1") and not holds_alpha("mp4", "vp9")
