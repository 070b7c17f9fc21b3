"""Around a frame its border is repeated: where a network must halve it, and where flow leads out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """How many pixels lie around a frame."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, frame: Tensor, multiple: int) -> Padding:
        """What a frame (..., H, W) lacks to the next multiples of `multiple`, split over both sides."""
        down, across = (-side % multiple for side in frame.shape[-2:])
        return cls(down // 2, down - down // 2, across // 2, across - across // 2)

    def __bool__(self) -> bool:
        return any((self.top, self.bottom, self.left, self.right))

    def add(self, frames: Tensor, value: float | None = None) -> Tensor:
        """Frames (N, C, H, W), their border repeated around them, or `value`."""
        sides = (self.left, self.right, self.top, self.bottom)
        if not self:
            return frames
        return F.pad(frames, sides, mode="replicate") if value is None else F.pad(frames, sides, value=value)

    def remove(self, padded: Tensor) -> Tensor:
        """The frame's part of (..., H, W), as a view."""
        height, width = padded.shape[-2:]
        return padded[..., self.top : height - self.bottom, self.left : width - self.right]


def within_frame(flow: Tensor) -> Tensor:
    """A flow (N, 2, H, W) in pixels that leads as far as the frame's border and no further.

    So what is warped by it finds the border there, where a warp would leave the pixel as it is.
    """
    height, width = flow.shape[2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    across, down = flow.split(1, 1)
    return torch.cat((across.clamp(-x, width - 1 - x), down.clamp(-y, height - 1 - y)), 1)
