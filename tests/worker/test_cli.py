from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.worker.conftest import MakeVideo, packet_times
from worker.cli import interpolate


def test_a_clip_with_the_real_network(video: MakeVideo, tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=0.12")
    source = video("tiny.mp4", *picture, "-c:v", "libx264", "-pix_fmt", "yuv420p")
    result = tmp_path / "result.mp4"
    done = CliRunner().invoke(interpolate, [str(source), str(result), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert packet_times(result) == [Fraction(k, 50) for k in range(6)]
    assert list(tmp_path.iterdir()) == [result]
    done = CliRunner().invoke(interpolate, [str(source), str(result), "--device", "cpu", "--speed", "0.5"])
    assert done.exit_code == 0, done.output
    assert packet_times(result) == [Fraction(k, 25) for k in range(6)]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("out.mkv", [], "ends in .mp4"),
        ("absent/out.mp4", [], "there is no folder"),
        ("out.mp4", ["--factor", "1"], "factor"),
        ("out.mp4", ["--factor", "2", "--target-fps", "60"], "not both"),
        ("out.mp4", ["--speed", "2"], "1/16 to below 1"),
        ("out.mp4", [], "cannot be read as a video"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, arguments: list[str], expected: str) -> None:
    source = tmp_path / "text.mp4"
    source.write_text("no video")
    done = CliRunner().invoke(interpolate, [str(source), str(tmp_path / name), *arguments])
    assert done.exit_code != 0
    assert expected in done.output
    assert not (tmp_path / name).exists()
