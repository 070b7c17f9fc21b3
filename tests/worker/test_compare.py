"""`dain compare`: what is seen where, which frames are paired, and what the figures say."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from tests.worker.conftest import MakeVideo
from worker import comparison
from worker.compare import LAYOUTS, compare

RED = ("-f", "lavfi", "-i", "color=red:size=96x64:rate=25:duration=0.4", "-pix_fmt", "yuv420p")
BLUE = ("-f", "lavfi", "-i", "color=blue:size=48x32:rate=50:duration=0.4", "-pix_fmt", "yuv420p")
MOVING = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=50:duration=0.4", "-pix_fmt", "yuv420p", "-qp", "0")


def run(*words: object) -> Result:
    return CliRunner().invoke(compare, [str(word) for word in words])


def frames(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def is_red(pixels: NDArray[np.uint8]) -> bool:
    return bool(pixels[..., 0].mean() > 200 and pixels[..., 2].mean() < 60)


def is_blue(pixels: NDArray[np.uint8]) -> bool:
    return bool(pixels[..., 2].mean() > 200 and pixels[..., 0].mean() < 60)


def test_the_layouts_are_those_of_the_work() -> None:
    assert LAYOUTS == comparison.LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_seen_where(video: MakeVideo, tmp_path: Path, layout: str) -> None:
    red, blue = video("red.mp4", *RED), video("blue.mp4", *BLUE)
    out = tmp_path / "both.mp4"
    done = run(red, blue, "-o", out, "--layout", layout, "--slow", 4)
    assert done.exit_code == 0, done.output
    made = frames(out)
    assert len(made) == 20  # every frame of the faster one
    with av.open(str(out)) as file:
        assert file.streams.video[0].average_rate == Fraction(25, 2)
    if layout == "side-by-side":
        assert made[9].shape == (64, 192, 3) and is_red(made[9][:, 4:92]) and is_blue(made[9][:, 100:188])
    elif layout == "stacked":
        assert made[9].shape == (128, 96, 3) and is_red(made[9][4:60]) and is_blue(made[9][68:124])
    else:
        assert is_red(made[0][:, :2]) and is_blue(made[0][:, 10:])  # the line begins at the left, ...
        middle = made[12]  # ... is in the middle after a second, ...
        assert is_red(middle[:, :40]) and is_blue(middle[:, 56:]) and middle[:, 40:56, 1].max(1).min() > 100
    assert [each.name for each in tmp_path.iterdir()] == ["both.mp4"]


def test_frames_are_paired_by_their_times(video: MakeVideo, tmp_path: Path) -> None:
    many = video("many.mp4", *MOVING)
    few = video("few.mp4", "-i", many, "-vf", "fps=25", "-qp", "0")
    for words in ((few, many), (many, few)):
        done = run(*words, "-o", tmp_path / "both.mp4", "--overwrite", "--json")
        figures = json.loads(done.stdout)
        assert (
            figures["frames"] == figures["equal"] == 10 and figures["psnr"] is None and figures["ssim"] == 1
        )
    slow = video("slow.mp4", "-i", many, "-vf", "setpts=2*PTS", "-r", "25", "-qp", "0")
    done = run(many, slow, "--speed", "0.5", "-o", tmp_path / "both.mp4", "--overwrite")
    assert "All 20 frames that both show at the same times are equal" in done.output


def test_times_that_a_container_rounds_pair_the_same_frames(video: MakeVideo, tmp_path: Path) -> None:
    film = (
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=96x64:rate=24000/1001:duration=0.5",
        "-pix_fmt",
        "yuv420p",
        "-qp",
        "0",
    )
    exact = video("exact.mp4", *film)
    rounded = video("rounded.mkv", "-i", exact, "-c", "copy")  # to milliseconds
    done = run(exact, rounded, "-o", tmp_path / "both.mp4")
    assert done.exit_code == 0 and "at the same times are equal" in done.output, done.output


def test_a_video_against_itself_and_a_part_of_it(video: MakeVideo, tmp_path: Path) -> None:
    moving = video("many.mp4", *MOVING)
    done = run(moving, moving, "-o", tmp_path / "both.mp4", "--start", "0.1", "--duration", "0.2")
    assert done.exit_code == 0 and "All 10 frames" in done.output


def test_a_difference_is_told_with_its_place(video: MakeVideo, tmp_path: Path) -> None:
    moving = video("many.mp4", *MOVING)
    worse = video("worse.mp4", "-i", moving, "-vf", "negate=enable='eq(n,7)'", "-qp", "0")
    done = run(moving, worse, "-o", tmp_path / "both.mp4")
    assert "20 frames that both show at the same times, 19 of them equal: PSNR" in done.output
    assert "They differ most at 0.14 s" in done.output


def test_what_is_wrong_is_said(video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moving, text = video("many.mp4", *MOVING), tmp_path / "text.mp4"
    text.write_text("no video")
    for words, expected in (
        ((moving, text), "cannot be read as a video"),
        ((moving, tmp_path / "gone.mp4"), "does not exist"),
        ((moving, moving, "-o", "both.avi"), "ends in .mp4"),
        ((moving, moving, "-o", text), "there is a file"),
        ((moving, moving, "-o", moving), "is the video itself"),
        ((moving, moving, "--start", "9"), "choose an earlier start"),
    ):
        done = run(*words)
        assert done.exit_code != 0 and expected in " ".join(done.output.split()), done.output
    assert [each.name for each in tmp_path.iterdir()] == ["text.mp4"] and text.read_text() == "no video"
