from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from torch import Tensor

from dain_core.evaluation import command
from dain_core.evaluation.cli import PRECISIONS, evaluate
from dain_core.evaluation.scenes import MadeClip
from dain_core.runtime import backends

Write = Callable[..., None]
Texture = Callable[[int], Tensor]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(evaluate, ["--device", "cpu", *map(str, arguments)])


@pytest.fixture
def film(write: Write, texture: Texture, tmp_path: Path) -> Path:
    """A folder of seven frames that move by four pixels a frame, the last three by none."""
    for index, shift in enumerate((0, 4, 8, 12, 16, 16, 16)):
        write(tmp_path / "film" / f"{index}.png", texture(shift))
    return tmp_path / "film"


def test_methods_are_compared(film: Path, tmp_path: Path) -> None:
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    result = call(
        film, "--method", "average", "--method", "dis", "--json", figures, "--page", page, "--worst", "2"
    )
    assert result.exit_code == 0, result.output
    assert "average" in result.output and "PSNR dB" in result.output

    found = json.loads(figures.read_text())
    average, dis = (found["clip"]["film"][name] for name in ("average", "dis"))
    assert (
        dis["psnr"]["mean"] > average["psnr"]["mean"] and dis["flicker"]["mean"] < average["flicker"]["mean"]
    )
    assert dis["vmaf_neg"]["mean"] > average["vmaf_neg"]["mean"]
    assert average["psnr"]["worst"] == average["psnr"]["worst_decile"] < average["psnr"]["mean"]
    assert len(found["scores"]) == 10
    still = [x for x in found["scores"] if x["sample"] == "4" and x["method"] == "average"]
    assert still[0]["values"]["psnr"] == 100

    text = page.read_text()
    assert text.count("<h3>film") == 2 + 2, "the worst two, and the two furthest behind"
    assert text.count("data:image/png") == 4 * 4 and text.count("data:image/jpeg") == 4 * (4 + 2)
    assert "http" not in text, "the page needs no other file"


def test_a_known_error_has_the_known_figures(write: Write, tmp_path: Path) -> None:
    """Every frame is 8 levels too bright or too dark, by turns."""
    (tmp_path / "wrong.py").write_text(
        "signs = []\n"
        "def interpolate(first, second, time):\n"
        "    signs.append(1 - 2 * (len(signs) % 2))\n"
        "    return first * 0 + (128 + 8 * signs[-1]) / 255\n"
    )
    for index in range(7):
        write(tmp_path / "grey" / f"{index}.png", 128)
    result = call(
        tmp_path / "grey", "--method", tmp_path / "wrong.py", "--flicker", "--json", tmp_path / "a.json"
    )
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "a.json").read_text())["clip"]["grey"]["wrong"]
    assert figures["ie"] == dict.fromkeys(("mean", "worst_decile", "worst"), pytest.approx(8, rel=1e-4))
    assert figures["psnr"]["mean"] == pytest.approx(20 * math.log10(255 / 8))
    assert figures["flicker"]["mean"] == pytest.approx(16), (
        "the error changes by 16 levels from frame to frame"
    )
    bright, dark = ((2 * 128 * x + 6.5025) / (128**2 + x**2 + 6.5025) for x in (136, 120))
    assert figures["ssim"]["mean"] == pytest.approx((3 * bright + 2 * dark) / 5, abs=1e-4)


def test_what_suits_the_device_is_evaluated_and_progress_is_said(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuple(backends.PRECISIONS) == PRECISIONS
    monkeypatch.setattr(command, "QUIET_SECONDS", 0.0)
    result = call(film, "--limit", "2")
    assert result.exit_code == 0, result.output
    assert "dain-lite" in result.stdout and "average" in result.stdout
    lines = result.stderr.splitlines()
    assert lines[:2] == ["Starting PyTorch.", "Reading the clips."] and "film: 2 samples so far" in lines


def test_every_time_between(film: Path, tmp_path: Path) -> None:
    result = call(film, "--gap", "4", "--limit", "1", "--method", "average", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found["time"]) == ["t = 0.25", "t = 0.5", "t = 0.75"]


def test_tables_show_the_worst_tenth(write: Write, texture: Texture, tmp_path: Path) -> None:
    for index, shift in enumerate([0, 4, 8, 13, 19, *[19] * 10]):  # 13 samples, so that a tenth is two
        write(tmp_path / "film" / f"{index:02}.png", texture(shift))
    result = call(
        tmp_path / "film", "--method", "average", "--json", tmp_path / "a.json", "--page", tmp_path / "a.html"
    )
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "a.json").read_text())["clip"]["film"]["average"]["ie"]
    assert figures["mean"] < figures["worst_decile"] < figures["worst"]
    mean, tenth = (f"{figures[key]:.2f}" for key in ("mean", "worst_decile"))
    assert f"{mean} ({tenth})" in result.output and "mean over the worst tenth" in result.output
    page = (tmp_path / "a.html").read_text()
    assert f"{mean} <small>{tenth}</small>" in page and "<th>IE, worst tenth</th>" in page


def test_without_vmaf_the_other_figures_are_there(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    result = call(film, "--method", "average")
    assert result.exit_code == 0, result.output
    assert "PSNR dB" in result.output and "VMAF NEG" not in result.output
    assert "VMAF is left out: /nowhere/ffmpeg cannot be run" in result.output


def test_depth_has_a_table_of_its_own(write: Write, texture: Texture, tmp_path: Path) -> None:
    write(tmp_path / "rgb" / "a.png", texture(0))
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "a.npy", np.linspace(1, 2, 48 * 64).reshape(48, 64))
    result = call(tmp_path, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "SDR" in result.output and "PSNR" not in result.output
    assert (
        json.loads((tmp_path / "a.json").read_text())["depth"][tmp_path.name]["dain-lite"]["sdr"]["mean"] > 0
    )


def test_made_scenes_have_frames_and_depth(tmp_path: Path) -> None:
    result = call("--scenes", "4", "--method", "average", "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "a.json").read_text())
    # Some scenes are still.
    assert 10 < found["clip"]["made scenes"]["average"]["psnr"]["mean"] < 100 and "depth" not in found
    [picture] = MadeClip(1, "cpu").pictures()
    assert picture.image.shape == (1, 3, *picture.depth.shape) and (picture.depth > 0).all()


def test_no_argument_at_all_is_a_wrong_use() -> None:
    done = call()
    assert done.exit_code == 2 and "Name a video or a folder" in done.output and "PyTorch" not in done.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.mp4"], "nowhere.mp4: there is no such file"),
        ([__file__, "--method", "average"], "test_cli.py: cannot be read"),
        ([__file__, "--method", "rife"], "--method rife: is none of average, dis, and not a Python file"),
        ([__file__, "--method", "average", "--method", "average"], "2 methods are called average"),
        ([__file__, __file__], "2 clips are called test_cli: rename them"),
        ([__file__, "--json", "nowhere/a.json"], "there is no folder nowhere to write a.json to"),
        ([__file__, "--crop", "2048"], "is not WIDTHxHEIGHT"),
        ([__file__, "--device", "gpu"], "no device is called 'gpu'"),
        (
            ["--scenes", "1", "--method", "average", "--json", "/dev/full"],
            "cannot write /dev/full: No space left",
        ),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], complaint: str) -> None:
    result = call(*arguments)
    assert result.exit_code and complaint in " ".join(result.output.split()), result.output
