"""Training data: batches of triplets of frames, and the protocol of the sources that give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from dain_core.errors import DainCoreError


class TrainingDataError(DainCoreError):
    """The training data cannot be used. The message names the file or folder and says what to do."""


@dataclass
class Batch:
    """N triplets of frames. A network makes the middle frame from the first and the last one.

    Attributes:
        first, middle, last: the frames, (N, 3, H, W), float32 RGB in [0, 1].
        time: the time of the middle frame, (N,), float32 in (0, 1); the first frame is at 0, the last at 1.
        flows: the motion from first to last (x, y), then from last to first (x, y), (N, 4, H, W), float32, in pixels.
            The value at a pixel is the later position of its surface point minus its present position. It is NaN
            where the motion is unknown.
        depth: the depth of first and of last, (N, 2, H, W), float32, positive; larger is further away.
        supervised: (N,), bool. True says that `flows` and `depth` are exact. False says that `flows` were measured or
            are unknown, and that `depth` is 1.
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
        """Make a batch whose flow and depth are unknown.

        Args:
            frames: first, middle and last frames, (N, 3 frames, 3, H, W), float32 RGB in [0, 1].
            time: see `Batch.time`.
        """
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
        """Join batches of one frame size and one device into one batch. The order of the triplets stays."""
        return cls(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(cls)))

    def to(self, device: torch.device | str) -> Batch:
        """Return a copy of the batch on `device`."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def __len__(self) -> int:
        return len(self.time)


class Source(Protocol):
    """An endless sequence of triplets. The same state always gives the same triplets."""

    def sample(self, n: int) -> Batch:
        """Return the next `n` triplets, on the device of the source."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the sequence, as numbers, strings, lists and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position that `state_dict` returned."""
