from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.jobs.clips import clips_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two videos, other files, a folder of pictures, and an empty one."""
    (tmp_path / "shots").mkdir()
    (tmp_path / "empty").mkdir()
    names = ("clip10.mp4", "clip2.MOV", "notes.txt", "cover.png", ".hidden.mp4", "shots/2.png", "shots/1.png")
    for name in names:
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_stands_for_its_videos_and_a_folder_of_pictures_for_itself(folder: Path) -> None:
    assert clips_of([str(folder)], print) == [folder / "clip2.MOV", folder / "clip10.mp4"]
    assert clips_of([str(folder / "shots")], print) == [folder / "shots"]


def test_a_pattern_stands_for_the_videos_that_it_matches(folder: Path) -> None:
    assert clips_of([f"{folder}/clip*"], print) == [folder / "clip2.MOV", folder / "clip10.mp4"]
    assert clips_of([f"{folder}/*"], print) == [folder / "clip2.MOV", folder / "clip10.mp4"]


def test_each_video_comes_once_and_a_file_may_have_any_name(folder: Path) -> None:
    (folder / "[1].bin").touch()
    words = [str(folder / "notes.txt"), str(folder / "clip10.mp4"), str(folder), str(folder / "[1].bin")]
    names = [clip.name for clip in clips_of(words, print)]
    assert names == ["notes.txt", "clip10.mp4", "clip2.MOV", "[1].bin"]


def test_results_that_lie_beside_their_videos_are_left_out_and_told_of(folder: Path) -> None:
    made = ("2x.mp4", "59.94fps-2.webm", "4x-slower-60fps.mp4", "2x-2x.mp4", "preview.mp4", "2x-compared.mp4")
    other = ("race-60fps.mp4", "clip2-take-3.mp4", "clip2x.mp4")
    for name in (*(f"clip2-{each}" for each in made), *other):
        (folder / name).touch()
    told: list[str] = []
    names = {clip.name for clip in clips_of([str(folder)], told.append)}
    assert names == {"clip2.MOV", "clip10.mp4", *other}
    assert len(told) == len(made)
    assert any("clip2-2x.mp4 is left out: by its name it was made of clip2.MOV." in line for line in told)
    alone = folder / "clip2-2x.mp4"
    assert clips_of([str(alone)], told.append) == [alone] and len(told) == len(made)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("gone.mp4", "no file or folder"),
        ("*.avi", "matches no video"),
        ("empty", "neither videos nor pictures"),
        ("pipe.mp4", "neither a file nor a folder"),
    ],
)
def test_what_names_nothing_is_said(folder: Path, word: str, reason: str) -> None:
    os.mkfifo(folder / "pipe.mp4")
    with pytest.raises(ValueError, match=reason) as caught:
        clips_of([str(folder / word)], print)
    assert word in str(caught.value)
