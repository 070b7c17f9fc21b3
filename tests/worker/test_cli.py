from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from dain_core.runtime import backends
from service.jobs.options import Options
from tests.worker.conftest import MakeVideo, packet_times
from worker.cli import PRECISIONS, interpolate
from worker.interpolation import _excerpt
from worker.media import ffmpeg
from worker.media.errors import disk_full
from worker.publishing import publish


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
        ("pipe.mp4", ["--overwrite"], "a device, a pipe or the like"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, arguments: list[str], expected: str) -> None:
    source = tmp_path / "text.mp4"
    source.write_text("no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    done = CliRunner().invoke(interpolate, [str(source), str(tmp_path / name), *arguments])
    assert done.exit_code != 0
    assert expected in done.output
    assert not (tmp_path / name).is_file()


def test_a_full_disk_is_named(video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise disk_full()

    source = video("small.mp4", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=0.08")
    monkeypatch.setattr("worker.interpolation.pipeline.render_segment", fail)
    done = CliRunner().invoke(interpolate, [str(source), str(tmp_path / "out.mp4"), "--device", "cpu"])
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and f"The disk of {tmp_path} ran full while small.mp4 was worked on." in said
    assert "Make room there, or name an OUT on another disk." in said and "DAIN_" not in said
    assert not list(tmp_path.iterdir())


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


def test_several_videos_go_into_a_folder_and_one_that_fails_stops_no_other(
    video: MakeVideo, tmp_path: Path
) -> None:
    source = video("small.mp4", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=0.08")
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for name in ("1.mp4", "3.mkv"):
        (clips / name).write_bytes(source.read_bytes())
    (clips / "2.mp4").write_text("no video")
    done = CliRunner().invoke(interpolate, [str(clips), str(out), "--device", "cpu", "--factor", "3"])
    assert done.exit_code == 1 and "Error: 2.mp4: The file cannot be read" in done.output
    assert "1 of 3 videos could not be made" in done.output and done.output.count("Loading the network") == 1
    assert sorted(path.name for path in out.iterdir()) == ["1-3x.mp4", "3-3x.mp4"]
    assert len(packet_times(out / "3-3x.mp4")) == 6


def test_a_preview_shows_a_piece_before_and_after(video: MakeVideo, tmp_path: Path) -> None:
    source = video(
        "long.mp4", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=3", "-pix_fmt", "yuv420p"
    )
    piece = ["--start", "1", "--duration", "0.12", "--device", "cpu"]
    done = CliRunner().invoke(interpolate, [str(source), str(tmp_path / "look.mp4"), "--preview", *piece])
    assert done.exit_code == 0, done.output
    assert "look.mp4: before is on the left, after on the right, 4 times as slow as long.mp4" in done.output
    assert packet_times(tmp_path / "look.mp4") == [Fraction(2 * k, 25) for k in range(6)]
    with av.open(str(tmp_path / "look.mp4")) as look, av.open(str(source)) as whole:
        shown = [frame.to_ndarray(format="rgb24") for frame in look.decode(video=0)]
        taken = list(whole.decode(video=0))[25].to_ndarray(format="rgb24")
    assert shown[0].shape == (64, 128, 3)
    for half in (shown[0][:, :64], shown[0][:, 64:]):
        assert np.abs(half.astype(int) - taken).mean() < 8
    assert list(tmp_path.iterdir()) == [tmp_path / "look.mp4"]


@pytest.mark.parametrize(
    ("duration", "asked", "expected"),
    [
        (Fraction(10), {}, ("4", "2")),
        (Fraction(1), {}, ("0", "1")),
        (Fraction(10), {"start": "7"}, ("7", "2")),
        (Fraction(10), {"start": "7", "duration": "1/2"}, ("7", "1/2")),
    ],
)
def test_a_preview_takes_two_seconds_from_the_middle_or_what_is_asked(
    duration: Fraction, asked: dict[str, str], expected: tuple[str, str]
) -> None:
    options = _excerpt(Options(factor=2, **asked), duration)
    assert (options.start, options.duration) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["in.mp4"], "Name the videos, and then the file or folder"),
        (["in.mp4", "in2.mp4", "out.mp4"], "two of their results would be out.mp4"),
        (["in.mp4", "in2.mp4", "in.mp4/"], "cannot be made a folder for the results: File exists"),
        (["nothing*.mp4", "out.mp4"], "matches no video"),
        (["in.mp4", "out.mkv", "--preview"], "ends in .mp4"),
        (["in.mp4", "out.mp4", "--preview", "--codec", "prores"], "mp4 holds no prores"),
    ],
)
def test_what_is_wrong_with_several_videos_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.mp4", "in2.mp4"):
        (tmp_path / name).write_text("no video")
    done = CliRunner().invoke(interpolate, words)
    assert done.exit_code != 0 and expected in " ".join(done.output.split())
    assert len(list(tmp_path.iterdir())) == 2


def test_no_ffmpeg_is_said(video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = video("small.mp4", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25:duration=0.08")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    ffmpeg.binary.cache_clear()
    try:
        done = CliRunner().invoke(interpolate, [str(source), str(tmp_path / "out.mp4"), "--device", "cpu"])
    finally:
        monkeypatch.undo()
        ffmpeg.binary.cache_clear()
    assert done.exit_code == 1 and "There is no FFmpeg here that can be run at /nowhere/ffmpeg" in done.output
    assert not list(tmp_path.iterdir())
