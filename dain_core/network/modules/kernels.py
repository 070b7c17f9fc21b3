"""Interpolation kernels, which a U-Net computes from a pair of frames (MEMC-Net; DAIN, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import FullPrecisionConv2d, upsample

#: The number of taps of a kernel, which is 4x4 for every pixel.
TAPS = 16

#: The four taps around the sampled position. Kernels with 1 on each of them make the adaptive warp bilinear.
CENTRE = (5, 6, 9, 10)


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class KernelNetwork(nn.Module):
    """Computes the 4x4 kernels of both frames of a pair.

    Args:
        widths: the six widths of the way down, the first two of which are at full size. The way up mirrors them.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        first, *rest = widths
        down = (6, first, *rest, rest[-1])
        self.down = nn.ModuleList(_conv(a, b) for a, b in zip(down, down[1:], strict=False))
        up = widths[::-1]
        self.up = nn.ModuleList(_conv(a, b) for a, b in zip(up, up[1:], strict=False))
        # The kernels weigh pixels. If they were rounded to half precision, the errors would be visible.
        self.heads = nn.ModuleList(
            nn.Sequential(
                _conv(first, TAPS), nn.ReLU(inplace=True), FullPrecisionConv2d(TAPS, TAPS, 3, padding=1)
            )
            for _ in range(2)
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels of both frames, (N, 16, H, W) each, float32.

        Args:
            first, second: the frames, (N, 3, H, W), in [0, 1]; H and W are multiples of 32.
        """
        x = F.relu_(self.down[0](torch.cat((first, second), 1)))
        before_pooling = []
        for conv in self.down[1:-1]:
            x = F.relu_(conv(x))
            before_pooling.append(x)
            x = F.max_pool2d(x, 2)
        x = F.relu_(self.down[-1](x))
        for conv in self.up:
            x = F.relu_(conv(upsample(x, 2).add_(before_pooling.pop())))
        return self.heads[0](x), self.heads[1](x)
