"""Small things that fly over triplets."""

from __future__ import annotations

import numpy as np
import torch

from dain_core.training.capsules import Capsule, draw_capsules, random_capsule

CPU = torch.device("cpu")


def test_a_capsule_is_where_it_is_at_a_time_and_covers_its_area() -> None:
    ball = Capsule(np.array([[20, 10], [20, 10]]), np.array([[20, 50], [20, 50]]), 4.0, np.zeros(3))
    for time, column in ((0.0, 10), (0.25, 20), (1.0, 50)):
        cover = ball.cover(time, 40, 64, CPU)
        assert abs(float((cover.sum(0) * torch.arange(64)).sum() / cover.sum()) - column) < 1e-3
        assert abs(float(cover.sum()) - np.pi * 16) < 1.5
    rod = Capsule(np.array([[10, 10], [10, 40]]), np.array([[20, 10], [20, 40]]), 0.5, np.zeros(3))
    halfway = rod.cover(0.5, 40, 64, CPU)
    assert halfway[15, 25] == 1 and halfway[10, 25] == halfway[20, 25] == halfway[15, 60] == 0


def test_some_triplets_have_them_at_their_three_times() -> None:
    random = np.random.default_rng(0)
    frames = torch.full((60, 3, 3, 48, 64), 128.0)
    draw_capsules(frames, [0.25] * 60, random)
    changed = (frames != 128).flatten(1).any(1)
    assert 4 < changed.sum() < 24
    assert frames.min() >= 0 and frames.max() <= 255 and not torch.equal(frames[:, 0], frames[:, 2])


def test_a_random_capsule_is_in_the_frame_halfway() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        capsule = random_capsule(random, 48, 64)
        row, column = (capsule.first + capsule.last).mean(0) / 2
        assert 0 <= row <= 48 and 0 <= column <= 64
        assert 3 < np.linalg.norm((capsule.last - capsule.first).mean(0)) < 161
