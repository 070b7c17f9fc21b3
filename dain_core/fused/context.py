"""The context network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dain_core.fused.bands import Band
from dain_core.fused.layers import FusedResidualBlock
from dain_core.fused.stem import Stem
from dain_core.modules.context import ContextNetwork
from dain_core.modules.layers import ResidualBlock


class FusedContext(nn.Module):
    """The features of an image (N, 3, H, W) after the first convolution, and after each of the network's blocks."""

    def __init__(self, network: ContextNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        stem = Stem(network.stem, dtype)
        self.layers = nn.ModuleList((stem, *(FusedResidualBlock(block, dtype) for block in blocks)))
        self.reaches = [stem.reach, *(block.conv1.dilation[0] + 1 for block in blocks)]

    def forward(self, image: Tensor, rows: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """The features, or those of the rows from `rows[0]` up to, not including, `rows[1]`."""
        height = image.shape[2]
        band = Band(*rows) if rows else Band(0, height)
        held = band.widened(sum(self.reaches), height)
        x, features = held.of(image), []
        for index, layer in enumerate(self.layers):
            needed = band.widened(sum(self.reaches[index + 1 :]), height)
            x, held = needed.of(layer(x), held), needed
            features.append(band.of(x, held))
        return tuple(features)
