from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner

from dain_core.runtime import backends
from tests.worker.conftest import MakeVideo, packet_times
from worker.cli import PRECISIONS, interpolate
from worker.interpolation import publish


def test_a_clip_with_the_real_network(video: MakeVideo, tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=0.12")
    sound = ("-f", "lavfi", "-i", "sine=duration=0.12")
    source = video("tiny.mkv", *picture, *sound, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "mp2")
    result = tmp_path / "result.mp4"
    done = CliRunner().invoke(interpolate, [str(source), str(result), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert packet_times(result) == [Fraction(k, 50) for k in range(6)]
    assert list(tmp_path.iterdir()) == [result]
    assert "Note: Sound track 1 (mp2) is encoded again" in " ".join(done.output.split())
    assert "6 frames of 3 on cpu" in done.output and f"{result}: 6 frames, 50 a second" in done.output
    again = [str(source), str(result), "--device", "cpu", "--speed", "0.5", "--overwrite"]
    done = CliRunner().invoke(interpolate, again)
    assert done.exit_code == 0, done.output
    assert packet_times(result) == [Fraction(k, 25) for k in range(6)]


@pytest.mark.parametrize("name", ["same", "symbolic", "hard", "symbolic-to-hard"])
@pytest.mark.parametrize("arguments", [[], ["--overwrite"]])
def test_the_video_itself_is_never_replaced(tmp_path: Path, name: str, arguments: list[str]) -> None:
    source = tmp_path / "same.mp4"
    source.write_text("the only copy")
    (tmp_path / "symbolic.mp4").symlink_to(source)
    (tmp_path / "hard.mp4").hardlink_to(source)
    (tmp_path / "symbolic-to-hard.mp4").symlink_to("hard.mp4")
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(interpolate, [str(source), str(tmp_path / f"{name}.mp4"), *arguments])
    assert done.exit_code == 2 and "is the video itself" in " ".join(done.output.split())
    assert source.read_text() == "the only copy" and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("link", [False, True])
def test_another_file_is_replaced_only_if_asked(video: MakeVideo, tmp_path: Path, link: bool) -> None:
    source, result = video("small.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p"), tmp_path / "there.mp4"
    if link:
        result.symlink_to("nowhere")
    else:
        result.write_text("dear to someone")
    done = CliRunner().invoke(interpolate, [str(source), str(result)])
    assert done.exit_code == 2 and "--overwrite" in done.output
    assert result.is_symlink() if link else result.read_text() == "dear to someone"


def test_a_folder_that_cannot_be_written_to_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.mp4").write_text("no video")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root writes everywhere
    done = CliRunner().invoke(interpolate, [str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")])
    assert done.exit_code == 2 and "cannot be written to" in " ".join(done.output.split())


def test_a_file_that_came_meanwhile_stays_and_the_result_too(tmp_path: Path) -> None:
    whole, result = tmp_path / "whole", tmp_path / "result.mp4"
    whole.write_text("made")
    result.write_text("came meanwhile")
    assert publish(whole, result, overwrite=False).read_text() == "made"
    assert result.read_text() == "came meanwhile"


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("out.avi", [], "ends in .mp4"),
        ("out.mp4", ["--codec", "prores"], "mp4 holds no prores"),
        ("out.webm", ["--audio", "aac"], "webm holds no AAC"),
        ("out.mp4", ["--max-bitrate", "9"], "50k to 1000M"),
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


def test_a_profile_is_followed_or_refused(
    video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "profile.json"
    fields = {
        "device": "a toaster",
        "model": "dain",
        "weights": "",
        "version": "",
        "blocks": {},
        "size": [64, 64],
    }
    profile.write_text(
        json.dumps({"kind": "dain-profile", **fields, "milliseconds": 1, "before": 1, "loss": 0})
    )
    monkeypatch.setenv("DAIN_PROFILE", str(profile))
    source = video("tiny.mkv", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=0.08")
    done = CliRunner().invoke(interpolate, [str(source), str(tmp_path / "out.mp4"), "--device", "cpu"])
    assert done.exit_code == 1 and "was measured on a toaster" in done.output


def test_the_precisions_are_those_of_the_engine() -> None:
    assert tuple(backends.PRECISIONS) == PRECISIONS
