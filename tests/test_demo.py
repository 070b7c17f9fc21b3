"""What `make demo` draws, and the README's animation, which it made."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("demo", ROOT / "docs/examples/demo.py")
assert _spec and _spec.loader
demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)


def test_the_pictures_show_film_blending_and_result_at_the_same_moment(tmp_path: Path) -> None:
    count = demo.SHOWN + 2
    before = [Image.new("RGB", (640, 272), (10 * n, 0, 0)) for n in range(count)]
    after = [Image.new("RGB", (640, 272), (0, 0, 3 * k)) for k in range(demo.FACTOR * count)]
    demo.draw_frame(before, after, tmp_path / "frame.png")
    x, y, right, bottom = demo.SIGN
    width, height = 2 * (right - x) + demo.GAP, 2 * (bottom - y) + demo.TITLE + demo.GAP
    with Image.open(tmp_path / "frame.png") as sheet:
        assert sheet.size == (2 * width - demo.GAP, 2 * height - demo.GAP)
        inside = [
            sheet.getpixel((column * width + 50, row * height + demo.TITLE + 50))
            for row in (0, 1)
            for column in (0, 1)
        ]
    first, second = demo.SHOWN * 10, demo.SHOWN * 10 + 10
    made = 3 * (demo.FACTOR * demo.SHOWN + 2)
    assert inside == [(first, 0, 0), (second, 0, 0), (first + 5, 0, 0), (0, 0, made)]
    bright = [Image.new("RGB", (640, 272), (0, 25 * k, 0)) for k in range(9)]  # no two of which look equal
    demo.draw_motion(before[:3], bright, tmp_path / "motion.webp")
    with Image.open(tmp_path / "motion.webp") as motion:
        assert motion.n_frames == 2 * demo.FACTOR
        motion.seek(5)
        motion.load()
        assert motion.info["duration"] == 40  # of 100 frames a second, four times as slow


def test_the_readme_shows_an_animation_on_its_first_screen() -> None:
    top = "".join((ROOT / "README.md").read_text().splitlines(keepends=True)[:16])
    found = re.search(r"!\[[^]]+\]\(([^)]+)\)", top)
    assert found, "no picture"
    picture = ROOT / found[1]
    assert picture.stat().st_size < 2**20
    with Image.open(picture) as animation:
        assert animation.n_frames == demo.FACTOR * (demo.FRAMES - 1)
