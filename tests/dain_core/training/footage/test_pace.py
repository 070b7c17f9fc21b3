"""When frames were taken, told by what moves in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dain_core.training.footage.pace import _between, positions
from dain_core.training.footage.search import Steps, shrunk
from tests.pictures import moving


def measured(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    return positions(Steps(list(shrunk(torch.from_numpy(frames)))))


def test_frames_are_found_where_they_are_between_their_neighbours() -> None:
    places = [0, 4, 8, 14, 16, 20, 23, 29, 33, 37]
    found = measured(np.stack(moving(places)))
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
    still = np.stack([moving([0])[0]] * 3)
    assert measured(still)[1] == 0.5
    chaos = np.stack([frame for k in range(3) for frame in moving([17 * k * k])])
    chaos[1] = rng.integers(0, 256, chaos[1].shape, dtype=np.uint8)
    assert np.isnan(measured(chaos)[1])
    repeated = moving([0, 8.0, 8.1, 16])
    assert np.isnan(measured(np.stack(repeated))[1:3]).all()


def test_parts_that_disagree_are_half_way_where_the_camera_is_regular() -> None:
    for places, regular in ((range(0, 80, 4), True), (np.cumsum([3, 5] * 10), False)):
        frames = np.stack(moving(places))
        frames[5, :, 100:], frames[5, :, :100] = frames[4, :, 100:], frames[6, :, :100]
        found = measured(frames)[1:-1]
        assert np.isnan(found).any() != regular
