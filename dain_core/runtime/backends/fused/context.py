"""The context network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dain_core.network.modules.context import ContextNetwork
from dain_core.network.modules.layers import ResidualBlock
from dain_core.runtime.backends.fused.bands import Band
from dain_core.runtime.backends.fused.layers import FusedResidualBlock, empty
from dain_core.runtime.backends.fused.stem import Stem


class FusedContext(nn.Module):
    """The features of an image (N, 3, H, W) after the first convolution, and after each of the network's blocks.

    Narrow ones are slices of one tensor: what warps them works out a pixel's taps once, and not for each.
    """

    def __init__(self, network: ContextNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        stem = Stem(network.stem, dtype)
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        fused = [FusedResidualBlock(block, dtype) for block in blocks]
        self.layers = nn.ModuleList((stem, *fused))
        self.reaches = [stem.reach, *(block.conv1.dilation[0] + 1 for block in blocks)]
        self.width, self.dtype, self.together = stem.out_channels, dtype, fused[0].narrow

    def forward(self, image: Tensor, rows: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """The features, or those of the rows from `rows[0]` up to, not including, `rows[1]`: one tensor, or several."""
        height = image.shape[2]
        band = Band(*rows) if rows else Band(0, height)
        seen = held = band.widened(sum(self.reaches), height)
        x = seen.of(image)
        count = len(self.layers)
        whole = empty(x, count * self.width, self.dtype) if self.together else None
        slices = whole.chunk(count, 1) if whole is not None else (None,) * count
        features = []
        for index, (layer, out) in enumerate(zip(self.layers, slices, strict=True)):
            needed = band.widened(sum(self.reaches[index + 1 :]), height)
            made = layer(x, None if out is None else held.of(out, seen))
            x, held = needed.of(made, held), needed
            features.append(band.of(x, held))
        return tuple(features) if whole is None else (band.of(whole, seen),)
