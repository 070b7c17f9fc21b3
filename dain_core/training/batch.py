"""What a network is trained on: triplets of frames, and the sources that give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor


class TrainingDataError(Exception):
    """Something is wrong with what was given to train on: names the file and the way out."""


@dataclass
class Batch:
    """N triplets of frames, the middle one to be guessed from its neighbours.

    Attributes:
        first, middle, last: (N, 3, H, W) float32 RGB in [0, 1].
        time: (N,) float32 in (0, 1): when the middle frame is, between first (0) and last (1).
        flows: (N, 4, H, W) float32, pixels: x and y of the motion from first to last, then from last to first.
            A flow lies at the pixel where it starts: where that surface point is later, minus where it is now. NaN
            where it is not known.
        depth: (N, 2, H, W) float32, positive, of first and of last: larger is further.
        supervised: (N,) bool: whether flows and depth are known exactly. Where not, flows are as measured, if at all,
            and depth is 1.
    """

    first: Tensor
    middle: Tensor
    last: Tensor
    time: Tensor
    flows: Tensor
    depth: Tensor
    supervised: Tensor

    @classmethod
    def of_frames(cls, frames: Tensor, time: Tensor) -> Batch:
        """Triplets of which nothing but the frames is known: (N, 3 frames, 3, H, W) in [0, 1], (N,)."""
        n, _, _, height, width = frames.shape
        first, middle, last = (frame.contiguous() for frame in frames.unbind(1))
        return cls(
            first=first,
            middle=middle,
            last=last,
            time=time,
            flows=frames.new_full((n, 4, height, width), torch.nan),
            depth=frames.new_ones(n, 2, height, width),
            supervised=torch.zeros(n, dtype=torch.bool, device=frames.device),
        )

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """One batch of all their triplets, in order. All of one size and device."""
        return cls(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(cls)))

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def __len__(self) -> int:
        return len(self.time)


class Source(Protocol):
    """Gives triplets without end. From one state always the same ones come."""

    def sample(self, n: int) -> Batch:
        """The next n triplets, on the source's device."""

    def state_dict(self) -> dict[str, Any]:
        """Where the source is: numbers, strings, lists and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
