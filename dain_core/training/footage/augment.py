"""Augmentation: triplets are mirrored, transposed, reversed in time and recoloured. Flow and depth change with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dain_core.training.batch import Batch


@torch.no_grad()
def augment(batch: Batch, rng: np.random.Generator) -> Batch:
    """Return an augmented copy of `batch`. Each change is applied to a random part of the triplets.

    The changes are: swap left and right; swap top and bottom; swap x and y, if the frames are square; reverse the time;
    permute red, green and blue; lower or raise contrast and brightness.

    Args:
        batch: the triplets.
        rng: the source of random numbers.
    """
    n, device = len(batch), batch.time.device

    def some(share: float) -> Tensor:
        return torch.from_numpy(rng.random(n) < share).to(device, non_blocking=True).view(-1, 1, 1, 1)

    frames = torch.cat([batch.first, batch.middle, batch.last], 1)
    flows, depth = batch.flows, batch.depth
    for axis, signs in ((3, [-1, 1, -1, 1]), (2, [1, -1, 1, -1])):
        chosen = some(0.5)
        sign = torch.tensor(signs, device=device, dtype=flows.dtype).view(1, 4, 1, 1)
        frames = torch.where(chosen, frames.flip(axis), frames)
        flows = torch.where(chosen, flows.flip(axis) * sign, flows)
        depth = torch.where(chosen, depth.flip(axis), depth)
    if frames.shape[2] == frames.shape[3]:
        chosen = some(0.5)
        frames = torch.where(chosen, frames.transpose(2, 3), frames)
        flows = torch.where(chosen, flows.transpose(2, 3)[:, [1, 0, 3, 2]], flows)
        depth = torch.where(chosen, depth.transpose(2, 3), depth)
    backwards = some(0.5)
    frames = torch.where(backwards, frames[:, [6, 7, 8, 3, 4, 5, 0, 1, 2]], frames)
    flows = torch.where(backwards, flows[:, [2, 3, 0, 1]], flows)
    depth = torch.where(backwards, depth.flip(1), depth)
    time = torch.where(backwards.flatten(), 1 - batch.time, batch.time)
    first, middle, last = _recoloured(frames, rng).split(3, 1)
    return Batch(first, middle, last, time, flows, depth, batch.supervised)


def _recoloured(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Change the colours of `frames`, (N, 9, H, W). The three frames of a triplet change alike."""
    n = len(frames)

    def moved(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(frames.device, non_blocking=True)

    order = rng.permuted(np.tile(np.arange(3), (n, 1)), axis=1)
    order = np.where(rng.random((n, 1)) < 0.3, order, np.arange(3))
    channels = (np.arange(9) // 3 * 3) + np.tile(order, 3)
    frames = frames[torch.arange(n, device=frames.device)[:, None], moved(channels)]
    contrast = np.where(rng.random(n) < 0.5, rng.uniform(0.7, 1.1, n), 1)
    # The offset is limited so that black and white stay within the range.
    room = (1 - contrast).clip(0) / 2
    offset = 0.5 + rng.uniform(-1, 1, n) * room
    gain, level = (moved(values).float().view(-1, 1, 1, 1) for values in (contrast, offset))
    return ((frames - 0.5) * gain + level).clamp_(0, 1)
