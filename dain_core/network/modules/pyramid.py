"""The feature pyramid of a frame, which refinement and rectification at the intermediate time share."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def leaky_conv(
    in_channels: int, out_channels: int, kind: type[nn.Conv2d] = nn.Conv2d, *, stride: int = 1
) -> nn.Sequential:
    """Make a 3x3 convolution and a LeakyReLU. The initial weights suit this activation."""
    conv = kind(in_channels, out_channels, 3, stride, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.LeakyReLU(0.1, inplace=True))


class PyramidNetwork(nn.Module):
    """Computes feature maps of images at 1/2, 1/4, … of their size.

    Args:
        widths: the channels of each level, from 1/2 of the size on.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(leaky_conv(before, width, stride=2), leaky_conv(width, width))
            for before, width in zip((3, *widths), widths, strict=False)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of images (N, 3, H, W). H and W are multiples of 2 to the power of the number of levels."""
        maps = []
        for level in self.levels:
            image = level(image)
            maps.append(image)
        return tuple(maps)


def image_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """Return `image`, (N, C, H, W), and its block means at 1/2, 1/4, … of its size: `levels` + 1 maps."""
    maps = [image]
    for _ in range(levels):
        maps.append(F.avg_pool2d(maps[-1], 2))
    return maps
