"""Layers and functions that several networks share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _widened(weight: Tensor, channels: int, dim: int) -> Tensor:
    """Extend `weight` along `dim` to `channels` channels with zeros."""
    spare = channels - weight.shape[dim]
    return F.pad(weight, (0, 0) * (weight.dim() - 1 - dim) + (0, spare)) if spare else weight


class SlackConv2d(nn.Conv2d):
    """A convolution that ignores the last channels of an input with too many channels; see `aligned`."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, _widened(self.weight, input.shape[1], 1), self.bias)


class SlackConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that ignores the last channels of an input with too many channels; see `aligned`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight = _widened(self.weight, input.shape[1], 0)
        stride, padding = cast(tuple[int, int], self.stride), cast(tuple[int, int], self.padding)
        return F.conv_transpose2d(input, weight, self.bias, stride, padding)


def aligned(x: Tensor) -> Tensor:
    """Pad the channels of `x`, (N, C, H, W), with zeros to a multiple of eight, in training on a GPU.

    Without it cuDNN would pad `x` before every convolution, which takes a sixth of the flow's time.
    """
    spare = -x.shape[1] % 8 if x.is_cuda and torch.is_grad_enabled() else 0
    return F.pad(x, (0, 0, 0, 0, 0, spare)) if spare else x


class FullPrecision(nn.Module):
    """A layer that stays float32 in a half-precision network.

    It serves for the few outputs that half precision cannot represent: pixel coordinates, and values whose exponential
    is taken.
    """

    weight: Tensor

    def forward(self, input: Tensor, *args: Any) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype), *args)


class FullPrecisionConv2d(FullPrecision, SlackConv2d):
    """A convolution that stays float32."""


class FullPrecisionConvTranspose2d(FullPrecision, nn.ConvTranspose2d):
    """A transposed convolution that stays float32."""


class ResidualBlock(nn.Module):
    """relu(x + conv2(relu(conv1(x)))). Both convolutions are 3x3 and have no bias; only conv1 is dilated."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv2(F.relu_(self.conv1(x))).add_(x))


def convert(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of `network` in place to `dtype`, except in `FullPrecision` layers, and to channels-last."""
    for module in network.modules():
        if not isinstance(module, FullPrecision) and not list(module.children()):
            module.to(dtype)
    lay_out(network.parameters())


def lay_out(weights: Iterable[nn.Parameter]) -> None:
    """Store weights of four dimensions channels-last, in place. CPUs and GPUs convolve fastest in that layout."""
    for weight in weights:
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def upsample(x: Tensor, factor: int) -> Tensor:
    """Enlarge `x`, (N, C, H, W), bilinearly by a whole factor; pixels are areas (align_corners=False)."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def downsample(x: Tensor, factor: int) -> Tensor:
    """Shrink `x`, (N, C, H, W), by a whole factor: return the means of `factor` x `factor` blocks."""
    return x if factor == 1 else F.avg_pool2d(x, factor)
