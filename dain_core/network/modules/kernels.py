"""Interpolation kernels: a U-Net on the pair of frames (MEMC-Net; DAIN, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import FullPrecisionConv2d, upsample

#: A 4x4 kernel for every pixel.
TAPS = 16


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class KernelNetwork(nn.Module):
    """The 4x4 kernels (N, 16, H, W) of each of two frames (N, 3, H, W).

    Args:
        widths: the six widths on the way down, two of them at full size; the way up mirrors them.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, *rest = widths
        down = (6, first, *rest, rest[-1])
        self.down = nn.ModuleList(_conv(a, b) for a, b in zip(down, down[1:], strict=False))
        up = widths[::-1]
        self.up = nn.ModuleList(_conv(a, b) for a, b in zip(up, up[1:], strict=False))
        # The kernels weigh pixels: rounded to half precision, they would show.
        self.heads = nn.ModuleList(
            nn.Sequential(
                _conv(first, TAPS), nn.ReLU(inplace=True), FullPrecisionConv2d(TAPS, TAPS, 3, padding=1)
            )
            for _ in range(2)
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu_(self.down[0](torch.cat((first, second), 1)))
        before_pooling = []
        for conv in self.down[1:-1]:
            x = F.relu_(conv(x))
            before_pooling.append(x)
            x = F.max_pool2d(x, 2)
        x = F.relu_(self.down[-1](x))
        for conv, skip in zip(self.up, reversed(before_pooling), strict=True):
            x = F.relu_(conv(upsample(x, 2).add_(skip)))
        return self.heads[0](x), self.heads[1](x)
