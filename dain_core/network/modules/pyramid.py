"""The feature pyramid of a frame that refinement and rectification at the intermediate time share."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def leaky_conv(
    in_channels: int, out_channels: int, kind: type[nn.Conv2d] = nn.Conv2d, *, stride: int = 1
) -> nn.Sequential:
    """A 3x3 convolution, started for the LeakyReLU that follows it."""
    conv = kind(in_channels, out_channels, 3, stride, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.LeakyReLU(0.1, inplace=True))


class PyramidNetwork(nn.Module):
    """Feature maps of images (N, 3, H, W) at 1/2, 1/4, … of their size.

    Args:
        widths: the channels of each level, from 1/2 on. H and W must be multiples of 2 to the number of levels.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(leaky_conv(before, width, stride=2), leaky_conv(width, width))
            for before, width in zip((3, *widths), widths, strict=False)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for level in self.levels:
            image = level(image)
            maps.append(image)
        return tuple(maps)


def image_pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """`image` (N, C, H, W) at its own size, 1/2, 1/4, … (block means): `levels` + 1 maps."""
    maps = [image]
    for _ in range(levels):
        maps.append(F.avg_pool2d(maps[-1], 2))
    return maps
