"""The context network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dain_core.network.modules.context import ContextNetwork
from dain_core.network.modules.layers import ResidualBlock
from dain_core.runtime.backends.fused.bands import Band
from dain_core.runtime.backends.fused.layers import FusedResidualBlock, empty, unit_of
from dain_core.runtime.backends.fused.stem import Stem


class FusedContext(nn.Module):
    """The features of an image (N, 3, H, W) after the first convolution, and after each of the network's blocks.

    Narrow ones, and those of eight bits, are slices of one tensor: what warps them works out a pixel's taps once, and
    not for each.

    Args:
        dtype: of the network.
        eight_bits: whether all but the first convolution multiplies eight bits. The network must be calibrated.

    Attributes:
        unit: what 1 stands for in the features.
    """

    def __init__(self, network: ContextNetwork, dtype: torch.dtype, eight_bits: bool = False) -> None:
        super().__init__()
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        # What the last block makes is about as large as what it sees.
        unit = unit_of(*(block.conv1 for block in blocks)) if eight_bits else None
        stem = Stem(network.stem, dtype, unit)
        fused = [FusedResidualBlock(block, dtype, unit) for block in blocks]
        self.unit = unit or 1.0
        self.layers = nn.ModuleList((stem, *fused))
        self.reaches = [stem.reach, *(block.conv1.dilation[0] + 1 for block in blocks)]
        self.width, self.dtype, self.together = stem.out_channels, stem.conv.out_dtype, fused[0].narrow

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
