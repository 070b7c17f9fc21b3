"""Changing triplets without making them untrue."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.training.batch import Batch
from dain_core.training.footage.augment import augment


def moving(n: int, size: tuple[int, int]) -> Batch:
    """A smooth picture that moves by (3, -2) from first to last."""
    height, width = size
    x, y = torch.arange(width).float(), torch.arange(height).float()[:, None]
    flow = torch.tensor([3.0, -2.0])

    def at(time: float) -> Tensor:
        u, v = x - flow[0] * time, y - flow[1] * time
        return torch.stack([0.5 + 0.4 * torch.sin(u / 5 + c) * torch.cos(v / 7 - c) for c in range(3)])

    flows = torch.cat([flow, -flow]).view(1, 4, 1, 1).expand(n, 4, *size).clone()
    first, middle, last = (at(time).expand(n, 3, *size).clone() for time in (0, 0.25, 1))
    depth = torch.stack([1 + 0.01 * x + 0 * y, 3 + 0.01 * x + 0 * y]).expand(n, 2, *size).clone()
    known = torch.ones(n, dtype=torch.bool)
    return Batch(first, middle, last, torch.full((n,), 0.25), flows, depth, known)


@pytest.mark.parametrize("size", [(32, 48), (32, 32)])
def test_what_is_true_stays_true(size: tuple[int, int]) -> None:
    batch = augment(moving(64, size), np.random.default_rng(1))
    height, width = size
    for here, there, flow in (
        (batch.first, batch.last, batch.flows[:, :2]),
        (batch.last, batch.first, batch.flows[:, 2:]),
        (batch.first, batch.middle, batch.flows[:, :2] * batch.time.view(-1, 1, 1, 1)),
    ):
        x = torch.arange(width) + flow[:, 0] + 0.5
        y = torch.arange(height)[:, None] + flow[:, 1] + 0.5
        found = F.grid_sample(
            there, torch.stack([2 * x / width - 1, 2 * y / height - 1], -1), align_corners=False
        )
        assert (found - here)[..., 4:-4, 4:-4].abs().max() < 0.02
    reversed_ = batch.time == 0.75
    assert 0 < reversed_.sum() < 64
    nearer = batch.depth[:, 0].mean((1, 2)) < batch.depth[:, 1].mean((1, 2))
    assert torch.equal(nearer, ~reversed_)
    directions = {tuple(flow) for flow in batch.flows[:, :2, 0, 0].tolist()}
    assert len(directions) == (8 if height == width else 4)
