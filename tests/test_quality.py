"""docs/examples/quality.py: the worst detail of a kind, its picture, and the table of the page."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dain_core.evaluation.methods import Method, plain_method
from dain_core.evaluation.pictures import png

EXAMPLE = Path(__file__).parents[1] / "docs/examples/quality.py"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("quality", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quality", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    return module


def test_the_worst_detail_is_where_the_error_is(quality) -> None:  # type: ignore[no-untyped-def]
    truth = torch.zeros(1, 3, 200, 300)
    made = truth.clone()
    made[..., 112:140, 160:190] = 1
    error, rows, columns = quality.worst_detail(made, truth)
    assert rows.start <= 112 < 140 <= rows.stop and columns.start <= 160 < 190 <= columns.stop
    assert error == pytest.approx(28 * 30 / (96 * 128))


def test_the_page_gets_the_table_again(quality, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Of made scenes over a picture of noise; a frame that is right is better than one that is black."""
    noise = np.random.default_rng(0).integers(0, 255, (360, 480, 3), np.uint8)
    for index in range(3):
        (tmp_path / "footage/still").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"footage/still/{index}.png").write_bytes(png(noise))
    monkeypatch.setattr(quality.Film, "video", lambda path: quality.Film.folder(tmp_path / "footage/still"))
    scenes = {name: scene for name, scene in quality.KINDS.items() if scene}
    monkeypatch.setattr(quality, "KINDS", scenes)
    monkeypatch.setattr(quality, "FRAMES", 1)
    black = Method("black", lambda first, last, times: 0 * first)
    monkeypatch.setattr(quality, "load_methods", lambda *_: [black, plain_method("average")])
    quality.PAGE.write_text("Before.\n\n| kind | case |\n| --- | --- |\n| old | x |\n\nAfter.\n")
    monkeypatch.setattr(sys, "argv", ["quality.py", "--footage", str(tmp_path)])
    quality.main()
    before, after = quality.PAGE.read_text().split("| kind | case | black | average |\n")
    assert before == "Before.\n\n" and after.endswith("\n\nAfter.\n") and "old" not in after
    for name in scenes:
        [line] = [line for line in after.splitlines() if line.startswith(f"| {name} | made, seed 0 |")]
        assert line.count("**") == 2 and "**" in line.split("|")[4], "the mean is better than black"
        with Image.open(quality.PICTURES / f"{name.replace(' ', '-')}.webp") as picture:
            assert picture.size == (4 * 192 + 3 * 4, 144)
