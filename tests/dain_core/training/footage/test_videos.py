"""Triplets out of videos: of one shot, of moving places, and the same whatever the threads do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dain_core.training.data import TrainingDataError, Videos, open_source
from dain_core.training.footage.stretches import Place, Span, Stretch, probe
from tests.pictures import moving

HEIGHT, WIDTH = 96, 128
CROP = (32, 64)


def write(path: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    """H.264 without loss, as a file of 25 frames a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=25, options={"qp": "0", "g": "8", "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def film(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """A picture that moves on the left, and rests on the right."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 200, (HEIGHT // 32, WIDTH // 32, 1)).repeat(32, 0).repeat(32, 1)
    picture = (patches + rng.integers(0, 56, (HEIGHT, WIDTH, 3))).astype(np.uint8)
    frames = []
    for index in range(count):
        frame = picture.copy()
        frame[:, : WIDTH // 2] = np.roll(picture[:, : WIDTH // 2], 3 * index, 0)
        frame[:4] = index  # what tells frames apart
        frames.append(frame)
    return frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "one.mp4", film(40))
    write(tmp_path / "two.mkv", film(24, seed=1))
    return tmp_path


def test_a_folder_of_videos_gives_triplets(folder: Path) -> None:
    source = open_source([str(folder)], CROP, seed=1)
    assert isinstance(source, Videos)
    batch = source.sample(12)
    assert batch.first.shape == (12, 3, *CROP) and not batch.supervised.any()
    assert ((batch.time > 0) & (batch.time < 1)).all()
    assert (batch.first != batch.last).flatten(1).any(1).sum() > 8


@pytest.mark.parametrize("budget", [1 << 30, 2_000_000])
def test_the_same_state_gives_the_same_batches(
    folder: Path, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dain_core.training.footage.videos._STRETCH", 10)
    monkeypatch.setattr("dain_core.training.footage.videos._TURN", 4)
    source = Videos(folder, CROP, seed=1, budget=budget)
    source.sample(9)
    state = source.state_dict()
    batches = [source.sample(3) for _ in range(8)]  # beyond the first round of stretches
    again = Videos(folder, CROP, seed=2, budget=budget)
    again.load_state_dict(state)
    for batch in batches:
        other = again.sample(3)
        assert torch.equal(batch.first, other.first) and torch.equal(batch.time, other.time)


def test_of_many_videos_each_process_reads_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spans(index: int, count: int) -> list[Span]:
        return Videos(folder, CROP, part=(index, count))._spans

    monkeypatch.setattr("dain_core.training.footage.videos._STRETCH", 8)
    everything = spans(0, 1)
    assert len(everything) == 8
    assert spans(0, 2) == spans(1, 2) == everything  # too few to be worth it
    monkeypatch.setattr("dain_core.training.footage.videos._OWN", 4)
    halves = spans(0, 2), spans(1, 2)
    assert len(halves[0]) == len(halves[1]) == 4
    assert {span.first for half in halves for span in half if span.path.stem == "one"} == {0, 8, 16, 24, 32}


def test_parts_of_a_file_are_all_of_it(folder: Path) -> None:
    span = probe(folder / "one.mp4", CROP)
    parts = [Stretch(part, torch.device("cpu")).frames for part in span.parts(16)]
    assert [len(part) for part in parts] == [13, 14, 13]
    assert torch.equal(torch.cat(parts)[:, 0, 0, 0], torch.arange(40, dtype=torch.uint8))


def test_no_triplet_has_a_cut_or_a_repeated_frame(tmp_path: Path) -> None:
    frames = film(20)
    frames[5] = frames[4]
    frames[12:] = film(8, seed=3)
    stretch = Stretch(probe(write(tmp_path / "cut.mp4", frames), CROP), torch.device("cpu"))
    for gap, starts in stretch.starts.items():
        inside = {
            start
            for start in range(20 - gap)
            if not start <= 4 < start + gap and not start <= 11 < start + gap
        }
        assert set(starts.tolist()) == inside


def test_moving_places_are_liked_better(folder: Path) -> None:
    stretch = Stretch(probe(folder / "one.mp4", CROP), torch.device("cpu"))
    left = stretch.motion(3, 5, 32, 96, 0, 64)
    right = stretch.motion(3, 5, 32, 96, 64, 128)
    assert left > 0.05 and right < 0.001
    motion = np.abs(np.diff(stretch.frames.double().mean(3).numpy() / 255, axis=0))
    assert left == pytest.approx(motion[3:5, 32:, :64].mean(), rel=1e-5)


def test_what_is_wrong_with_videos_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no video"):
        Videos(tmp_path, CROP)
    still = write(tmp_path / "still.mp4", [film(1)[0]] * 6)
    with pytest.raises(TrainingDataError, match="differ"):
        Videos(tmp_path, CROP).sample(1)
    with pytest.raises(TrainingDataError, match=r"still\.mp4.*96x128, smaller"):
        Videos(tmp_path, (128, 128))
    write(still, film(2))
    with pytest.raises(TrainingDataError, match="2 frames"):
        Videos(tmp_path, CROP)
    still.write_bytes(b"no video")
    with pytest.raises(TrainingDataError, match=r"still\.mp4 cannot be read"):
        Videos(tmp_path, CROP)


def test_a_triplets_time_is_what_its_motion_tells(tmp_path: Path) -> None:
    places = [0, 4, 8, 14, 16, 20, 24, 24.1, 32, 36, 40, 44]
    stretch = Stretch(probe(write(tmp_path / "uneven.mp4", moving(places)), CROP), torch.device("cpu"))
    lost = {6, 7}  # next to each other, and so neither is half-way
    for gap, starts in stretch.starts.items():
        assert set(starts.tolist()) == {
            start for start in range(12 - gap) if not lost & set(range(start + 1, start + gap))
        }
        for first in starts:
            for middle in range(first + 1, first + gap):
                true = (places[middle] - places[first]) / (places[first + gap] - places[first])
                assert stretch.time(first, middle, first + gap) == pytest.approx(true, abs=0.03)
    assert stretch.time(8, 9, 10) == 0.5


def test_batches_have_the_times_that_were_measured(tmp_path: Path) -> None:
    write(tmp_path / "uneven.mp4", moving(np.cumsum([2, 6] * 12)))
    times = Videos(tmp_path, CROP, seed=1).sample(40).time
    neighbours = ((times - 0.25).abs() < 0.03) | ((times - 0.75).abs() < 0.03)
    assert (
        neighbours.float().mean() > 0.4
    )  # the frame between two neighbours, of more than half of the triplets


def test_videos_say_that_opencv_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(TrainingDataError, match="pip install opencv-python-headless"):
        Videos(folder, CROP)


def test_flow_is_given_where_it_was_measured(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", moving(range(0, 32, 4), height=128, width=192))
    stretch = Stretch(probe(path, CROP), torch.device("cpu"))
    # Twice as large as the crop, and two frames apart: 4 and 2 pixels there.
    place = Place(stretch, first=1, gap=2, top=16, left=60, height=64, width=128)
    flows = place.flows(CROP)
    expected = torch.tensor([-4.0, 2.0, 4.0, -2.0]).view(4, 1, 1)
    known = flows.isfinite().all(0)
    assert known[4:-4, 4:-8].float().mean() > 0.9
    assert (flows - expected)[:, known].abs().median() < 0.1
    assert ((flows - expected)[:, known].abs() < 0.5).float().mean() > 0.95
    assert replace(place, gap=3).flows(CROP).isnan().all()
    resting = replace(place, left=0, width=32, height=16).flows(CROP)
    assert resting[:, :, :32].nan_to_num(0).abs().median() < 0.5


def test_batches_have_the_flow_of_their_frames(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4", moving(range(0, 64, 2), height=128, width=192))
    batch = Videos(tmp_path, CROP, seed=1).sample(40)
    known = batch.flows.isfinite().all(1)
    assert known.float().mean() > 0.4 and not batch.supervised.any()
    n, height, width = known.shape
    x = torch.arange(width) + 0.5 + batch.flows[:, 0].nan_to_num(0)
    y = torch.arange(height)[:, None] + 0.5 + batch.flows[:, 1].nan_to_num(0)
    where = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)
    inside = (where.abs() < 0.95).all(-1) & known
    found = torch.nn.functional.grid_sample(batch.last, where, align_corners=False)
    apart = (found - batch.first).abs().mean(1)[inside].mean()
    assert apart < 0.2 * (batch.last - batch.first).abs().mean(1)[inside].mean()
