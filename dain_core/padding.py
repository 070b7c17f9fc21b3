"""Padding a frame to a size that the networks can halve, and cropping it back."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Crop:
    """Where the frame is inside its padded self."""

    top: int
    left: int
    height: int
    width: int

    def apply(self, padded: Tensor) -> Tensor:
        """The frame's part of (..., H, W), as a view."""
        return padded[..., self.top : self.top + self.height, self.left : self.left + self.width]


def pad(frames: Tensor, multiple: int = 64) -> tuple[Tensor, Crop]:
    """Pad (N, C, H, W) to the next multiples of `multiple` by repeating the border, split over both sides."""
    height, width = frames.shape[-2:]
    extra_height, extra_width = -height % multiple, -width % multiple
    top, left = extra_height // 2, extra_width // 2
    crop = Crop(top, left, height, width)
    if extra_height == extra_width == 0:
        return frames, crop
    return F.pad(frames, (left, extra_width - left, top, extra_height - top), mode="replicate"), crop
