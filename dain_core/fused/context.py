"""The context network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dain_core.fused.layers import FusedResidualBlock, WideConv2d
from dain_core.modules.context import ContextNetwork
from dain_core.modules.layers import ResidualBlock


class FusedContext(nn.Module):
    """The features after each of the context network's blocks."""

    def __init__(self, network: ContextNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem = WideConv2d(network.stem, dtype)
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        self.blocks = nn.ModuleList(FusedResidualBlock(block, dtype) for block in blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = [self.stem(image)]
        for block in self.blocks:
            features.append(block(features[-1]))
        return tuple(features)
