"""Layers that several of the networks are made of."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _widened(weight: Tensor, channels: int, dim: int) -> Tensor:
    """Zeros for the channels of the input that the weight knows nothing of."""
    spare = channels - weight.shape[dim]
    return F.pad(weight, (0, 0) * (weight.dim() - 1 - dim) + (0, spare)) if spare else weight


class SlackConv2d(nn.Conv2d):
    """Sees the first of its input's channels, however many more there are; see `aligned`."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, _widened(self.weight, input.shape[1], 1), self.bias)


class SlackConvTranspose2d(nn.ConvTranspose2d):
    """Likewise."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight = _widened(self.weight, input.shape[1], 0)
        stride, padding = cast(tuple[int, int], self.stride), cast(tuple[int, int], self.padding)
        return F.conv_transpose2d(input, weight, self.bias, stride, padding)


def aligned(x: Tensor) -> Tensor:
    """In training on a GPU, (N, C, H, W) with zeros up to a multiple of eight channels: else cuDNN pads it before every
    convolution, which takes a sixth of the flow's time."""
    spare = -x.shape[1] % 8 if x.is_cuda and torch.is_grad_enabled() else 0
    return F.pad(x, (0, 0, 0, 0, 0, spare)) if spare else x


class FullPrecision(nn.Module):
    """A layer that a half-precision network keeps in float32.

    For the few outputs that half precision cannot hold: pixel coordinates, and what is exponentiated.
    """

    weight: Tensor

    def forward(self, input: Tensor, *args: Any) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype), *args)


class FullPrecisionConv2d(FullPrecision, SlackConv2d):
    pass


class FullPrecisionConvTranspose2d(FullPrecision, nn.ConvTranspose2d):
    pass


class ResidualBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), both 3x3 and without bias; only the first is dilated."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv2(F.relu_(self.conv1(x))).add_(x))


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear, pixels as areas (align_corners=False); `x` itself for 1."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def downsample(x: Tensor, factor: int) -> Tensor:
    """The mean of each `factor` x `factor` block; `x` itself for 1."""
    return x if factor == 1 else F.avg_pool2d(x, factor)
