"""Triplets out of videos: of one shot, of moving places, and the same whatever the threads do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dain_core.training.data import TrainingDataError, Videos, open_source
from dain_core.training.footage.pace import _between, positions
from dain_core.training.footage.stretches import Stretch, probe

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


def moving(places: Sequence[float], height: int = 120, width: int = 160) -> list[NDArray[np.uint8]]:
    """Smooth noise that has come so many pixels far, down and to the left, over a part that rests."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 40, 60, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(480, 720), mode="bicubic", align_corners=False)
    frames = []
    for place in places:
        at = torch.meshgrid(
            torch.arange(height) + 100.0 - 0.5 * place, torch.arange(width) + 100.0 + place, indexing="ij"
        )
        grid = torch.stack([(at[1] + 0.5) / 360 - 1, (at[0] + 0.5) / 240 - 1], -1)
        frame = torch.nn.functional.grid_sample(picture, grid[None].float(), align_corners=False)[0]
        frame[:, :, :40] = picture[0, :, :height, :40]
        frames.append((frame.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())
    return frames


def test_frames_are_found_where_they_are_between_their_neighbours() -> None:
    places = [0, 4, 8, 14, 16, 20, 23, 29, 33, 37]
    found = positions(torch.from_numpy(np.stack(moving(places))))
    true = [(b - a) / (c - a) for a, b, c in zip(places, places[1:], places[2:], strict=False)]
    assert np.isnan(found[[0, -1]]).all()
    assert found[1:-1] == pytest.approx(true, abs=0.02)
    assert found[1] == 0.5  # and not only nearly


def test_a_pan_is_no_rest() -> None:
    """Though every pixel moves as far as any other."""
    back, on = (np.full((60, 80, 2), value, np.float32) for value in (-2, 6))
    assert _between(back, on) == 0.25


def test_frames_at_rest_are_half_way_and_nonsense_is_nowhere() -> None:
    rng = np.random.default_rng(0)
    still = torch.from_numpy(np.stack([moving([0])[0]] * 3))
    assert positions(still)[1] == 0.5
    chaos = torch.from_numpy(np.stack([frame for k in range(3) for frame in moving([17 * k * k])]))
    chaos[1] = torch.from_numpy(rng.integers(0, 256, chaos[1].shape, dtype=np.uint8))
    assert np.isnan(positions(chaos)[1])
    repeated = moving([0, 8.0, 8.1, 16])
    assert np.isnan(positions(torch.from_numpy(np.stack(repeated)))[1:3]).all()


def test_parts_that_disagree_are_half_way_where_the_camera_is_regular() -> None:
    for places, regular in ((range(0, 80, 4), True), (np.cumsum([3, 5] * 10), False)):
        frames = np.stack(moving(places))
        frames[5, :, 100:], frames[5, :, :100] = frames[4, :, 100:], frames[6, :, :100]
        found = positions(torch.from_numpy(frames))[1:-1]
        assert np.isnan(found).any() != regular


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
