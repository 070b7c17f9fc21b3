from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dain_core.evaluation.clips import Sample, Selection, find_clips
from dain_core.evaluation.pictures import EvaluationError, read_video

Write = Callable[..., None]

EVERY = Selection(limit=0)


def samples(path: Path, selection: Selection = EVERY) -> list[Sample]:
    return [sample for clip in find_clips(path) for sample in clip.samples(selection)]


def levels(sample: Sample) -> list[int]:
    """The grey levels of the first, the true and the last frames."""
    return [int(frame[0, 0, 0, 0]) for frame in (sample.first, *sample.truths, sample.last)]


def frames(write: Write, folder: Path, count: int) -> Path:
    for index in range(count):
        write(folder / f"frame{index}.png", index)
    return folder


def test_triplets_of_a_video_are_its_frames(clip: Path) -> None:
    known = list(read_video(clip))
    found = samples(clip)
    assert [sample.place for sample in found] == list(range(10))
    for place, sample in enumerate(found):
        for frame, expected in zip((sample.first, *sample.truths, sample.last), known[place:], strict=False):
            assert torch.equal(frame, expected)
    assert found[0].clip == "clip" and found[0].times == (0.5,)


def test_places_are_spread_evenly_from_end_to_end() -> None:
    assert Selection(limit=4).places(10) == [0, 3, 6, 9]
    assert Selection(every=3).places(10) == [0, 3, 6, 9]
    assert Selection(limit=2, every=4).places(10) == [0, 8]
    assert Selection(limit=1).places(9) == [4]
    assert Selection().places(9, default=2) == [0, 8]
    assert Selection(limit=0).places(3, default=2) == [0, 1, 2]


def test_a_larger_gap_has_several_times(write: Write, tmp_path: Path) -> None:
    found = samples(frames(write, tmp_path / "walk", 6), Selection(limit=0, gap=4))
    assert [levels(sample) for sample in found] == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert found[0].times == (0.25, 0.5, 0.75)


def test_neighbours_follow_and_do_not_count(write: Write, tmp_path: Path) -> None:
    found = samples(frames(write, tmp_path / "walk", 9), Selection(limit=3, neighbours=True))
    assert [(sample.place, sample.counted) for sample in found] == [
        (0, True),
        (1, False),
        (3, True),
        (4, False),
        (6, True),
    ]
    assert found[1].follows(found[0]) and not found[2].follows(found[1])


def test_a_folder_of_videos_or_of_frame_folders_is_several_clips(
    write: Write, tmp_path: Path, clip: Path
) -> None:
    frames(write, tmp_path / "set" / "b", 3)
    frames(write, tmp_path / "set" / "a", 3)
    assert [found.name for found in find_clips(tmp_path / "set")] == ["a", "b"]
    assert "clip" in [found.name for found in find_clips(clip.parent)]


def test_downscaling_then_cropping(write: Write, tmp_path: Path) -> None:
    for index in range(3):
        picture = torch.zeros(1, 3, 8, 12, dtype=torch.uint8)
        picture[..., 4:6, 6:8] = torch.tensor([[10, 20], [30, 40]])
        write(tmp_path / "clip" / f"{index}.png", picture)
    [sample] = samples(tmp_path / "clip", Selection(downscale=2, crop=(4, 2)))
    assert sample.first[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 25, 0]]
    with pytest.raises(EvaluationError, match="8x2 cannot be cut out of 6x4"):
        samples(tmp_path / "clip", Selection(downscale=2, crop=(8, 2)))
    with pytest.raises(EvaluationError, match="12x8 cannot be shrunk 9 times"):
        samples(tmp_path / "clip", Selection(downscale=9))


def test_vimeo(write: Write, tmp_path: Path) -> None:
    for name, level in (("00001/0389", 10), ("00001/0402", 20)):
        for index in (1, 2, 3):
            write(tmp_path / "sequences" / name / f"im{index}.png", level + index)
    (tmp_path / "tri_testlist.txt").write_text("00001/0389\n00001/0402\n\n")
    found = samples(tmp_path)
    assert [(sample.clip, sample.name) for sample in found] == [
        ("Vimeo-90K", "00001/0389"),
        ("Vimeo-90K", "00001/0402"),
    ]
    assert levels(found[1]) == [21, 22, 23]


def test_middlebury(write: Write, tmp_path: Path) -> None:
    for name in ("Beanbags", "Walking"):
        write(tmp_path / "other-data" / name / "frame10.png", 1)
        write(tmp_path / "other-data" / name / "frame11.png", 3)
    write(tmp_path / "other-gt-interp" / "Walking" / "frame10i11.png", 2)
    [sample] = samples(tmp_path)
    assert (sample.clip, sample.name, levels(sample)) == ("Middlebury", "Walking", [1, 2, 3])


def test_ucf101(write: Write, tmp_path: Path) -> None:
    for name, level in (("frame_00", 1), ("frame_01_gt", 2), ("frame_01_ours", 9), ("frame_02", 3)):
        write(tmp_path / "141" / f"{name}.png", level)
    [sample] = samples(tmp_path)
    assert (sample.clip, sample.name, levels(sample)) == ("UCF101", "141", [1, 2, 3])


@pytest.mark.parametrize("place", ["", "eval_modes"])
def test_snu_film(write: Write, tmp_path: Path, place: str) -> None:
    frames(write, tmp_path / "test" / "GOPRO_test" / "GOPR1", 6)
    (tmp_path / place).mkdir(exist_ok=True)
    for grade, step in (("hard", 2), ("easy", 1)):
        names = [f"data/SNU-FILM/test/GOPRO_test/GOPR1/frame{index}.png" for index in (0, step, 2 * step)]
        (tmp_path / place / f"test-{grade}.txt").write_text(" ".join(names) + "\n")
    found = samples(tmp_path)
    assert [(sample.clip, levels(sample)) for sample in found] == [
        ("SNU-FILM easy", [0, 1, 2]),
        ("SNU-FILM hard", [0, 2, 4]),
    ]
    assert [sample.clip for sample in samples(tmp_path / place / "test-hard.txt")] == ["SNU-FILM hard"]


def test_a_list_that_names_missing_files(tmp_path: Path) -> None:
    (tmp_path / "test-easy.txt").write_text("a/1.png a/2.png a/3.png\n")
    with pytest.raises(EvaluationError, match=r"test-easy\.txt: names a/1\.png, which is nowhere beside it"):
        find_clips(tmp_path)


def test_a_list_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("00001/0389\n")
    with pytest.raises(EvaluationError, match=r"list\.txt: line 1 names 1 files, not 3"):
        find_clips(tmp_path / "list.txt")


def test_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "tri_testlist.txt").touch()
    with pytest.raises(EvaluationError, match=r"tri_testlist\.txt: names no triplet"):
        find_clips(tmp_path)


def test_two_frames_are_too_few(write: Write, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="walk: has 2 frames, but a sample takes 3"):
        samples(frames(write, tmp_path / "walk", 2))


def test_frames_of_different_sizes(write: Write, tmp_path: Path) -> None:
    frames(write, tmp_path / "walk", 3)
    write(tmp_path / "walk" / "frame2.png", size=(16, 32))
    with pytest.raises(EvaluationError, match=r"frame2\.png: is 32x16 and not 24x16"):
        samples(tmp_path / "walk")


def test_triplets_of_different_sizes(write: Write, tmp_path: Path) -> None:
    for name, width in (("frame_00", 24), ("frame_01_gt", 24), ("frame_02", 32)):
        write(tmp_path / "1" / f"{name}.png", size=(16, width))
    with pytest.raises(EvaluationError, match=r"frame_02\.png: is 32x16 and not 24x16"):
        samples(tmp_path)


def test_what_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nowhere: there is no such file"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match="holds no video"):
        find_clips(tmp_path)
