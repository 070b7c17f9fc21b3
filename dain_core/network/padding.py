"""Repeats the border of a frame: for networks that halve the frame, and for flow that leads out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """The numbers of pixels that are added around a frame."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, frame: Tensor, multiple: int) -> Padding:
        """Return the padding that makes H and W of `frame`, (..., H, W), multiples of `multiple`.

        It is distributed evenly over opposite sides.
        """
        down, across = (-side % multiple for side in frame.shape[-2:])
        return cls(down // 2, down - down // 2, across // 2, across - across // 2)

    def __bool__(self) -> bool:
        """Whether any pixel is added."""
        return any((self.top, self.bottom, self.left, self.right))

    def add(self, frames: Tensor, value: float | None = None) -> Tensor:
        """Pad frames (N, C, H, W) with their repeated border, or with `value` if it is given."""
        sides = (self.left, self.right, self.top, self.bottom)
        if not self:
            return frames
        return F.pad(frames, sides, mode="replicate") if value is None else F.pad(frames, sides, value=value)

    def remove(self, padded: Tensor) -> Tensor:
        """Return the part of `padded`, (..., H, W), that is the frame. The result is a view."""
        height, width = padded.shape[-2:]
        return padded[..., self.top : height - self.bottom, self.left : width - self.right]


def within_frame(flow: Tensor) -> Tensor:
    """Limit a flow, (N, 2, H, W) in pixels, so that it does not lead out of the frame.

    A warp then finds the border of the frame. With a flow that leads out of the frame, it would not warp the pixel.
    """
    height, width = flow.shape[2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    across, down = flow.split(1, 1)
    return torch.cat((across.clamp(-x, width - 1 - x), down.clamp(-y, height - 1 - y)), 1)
