"""The first convolution of a network that sees a frame at full size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cuda_ext import unfold_row_into
from dain_core.runtime.backends.fused.layers import SliceConv2d, empty, round_up, widen


class Stem(nn.Module):
    """relu(conv(image)) of an image (N, 3, H, W).

    Three channels would leave most of a tensor core idle at each of 7x7 taps. A row of taps unfolded into channels
    leaves a convolution one column wide.

    Args:
        result: what 1 stands for in the result, if that has eight bits.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, result: float | None = None) -> None:
        super().__init__()
        height, self.taps = conv.weight.shape[2:]
        self.reach, self.dtype, self.out_channels = height // 2, dtype, conv.out_channels
        self.channels = round_up(3 * self.taps)
        column = nn.Conv2d(self.channels, conv.out_channels, (height, 1), padding=(self.reach, 0))
        weight = conv.weight.permute(0, 3, 1, 2).flatten(1, 2)[..., None]
        column.weight.data, column.bias = widen(weight, self.channels), conv.bias
        self.conv = SliceConv2d(column, 0.0, dtype, result=result)

    def forward(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        rows = empty(image, self.channels, self.dtype)
        unfold_row_into(image, self.taps, rows)
        return self.conv(rows, out)
