"""The rectification network, and the features it is fed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cuda_ext import BLEND_CHANNELS
from dain_core.network.model import ModelConfig
from dain_core.network.modules.layers import ResidualBlock
from dain_core.network.modules.synthesis import RectificationNetwork
from dain_core.runtime.backends.fused.layers import (
    EIGHT_BITS,
    FusedResidualBlock,
    SliceConv2d,
    unit_of,
    widen,
)
from dain_core.runtime.calibration import range_of


class FusedRectification(nn.Module):
    """Adds to the blend what it lacks, judging by what `stem` made of all that was warped.

    `stem` is not part of `forward` so that its input, the largest tensor of all, can be let go of in between.

    Args:
        dtype: of the network.
        eight_bits: whether convolutions multiply eight bits: all of them in a network that is calibrated, else the
            first, which is most of the work.
        context_unit: what 1 stands for in the contexts.

    Attributes:
        seen_dtype, channels: of what `stem` sees: the warped contexts of both frames and what `blend_into` gathers.
        reach: how many rows above and below a row depends on.
    """

    def __init__(
        self,
        network: RectificationNetwork,
        config: ModelConfig,
        dtype: torch.dtype,
        eight_bits: bool = False,
        context_unit: float = 1.0,
    ) -> None:
        super().__init__()
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        self.seen_dtype = EIGHT_BITS if eight_bits else dtype
        unit = None
        if eight_bits and range_of(network.head):
            unit, dtype = unit_of(network.head, *(block.conv1 for block in blocks)), EIGHT_BITS
        # Colours and pixels of flow are numbers that eight bits hold as they are.
        stem = _as_gathered(network.stem, config.context_channels, context_unit)
        self.stem = SliceConv2d(stem, 0.0, self.seen_dtype, result=unit)
        self.blocks = nn.Sequential(*(FusedResidualBlock(block, dtype, unit) for block in blocks))
        self.head = SliceConv2d(network.head, 1.0, dtype, wide_output=True, unit=unit)
        self.channels = 6 * config.context_width + BLEND_CHANNELS
        self.reach = config.rectify_kernel // 2 + 2 * len(blocks) + 1

    def forward(self, x: Tensor, blend: Tensor) -> Tensor:
        """The frame, float32, in place of the blend."""
        return self.head(self.blocks(x), blend, plus=blend)


def _as_gathered(stem: nn.Conv2d, context: int, unit: float) -> nn.Conv2d:
    """The first convolution for the channels as they lie in memory: features, in a unit, then `blend_into`'s.

    A context starts with the image, which is there already once warped: the two weights are added.
    """
    rest, one, two = stem.weight.detach().split([stem.in_channels - 2 * context, context, context], 1)
    blend, image_1, image_2, motion = rest.split([3, 3, 3, rest.shape[1] - 9], 1)
    (again_1, features_1, depth_1), (again_2, features_2, depth_2) = (
        part.split([3, context - 4, 1], 1) for part in (one, two)
    )
    gathered = torch.cat((blend, image_1 + again_1, image_2 + again_2, motion, depth_1, depth_2), 1)
    weight = torch.cat((unit * features_1, unit * features_2, widen(gathered, BLEND_CHANNELS)), 1)
    size, padding = cast(tuple[int, int], stem.kernel_size), cast(tuple[int, int], stem.padding)
    result = nn.Conv2d(weight.shape[1], stem.out_channels, size, padding=padding)
    result.weight.data, result.bias = weight, stem.bias
    return result
