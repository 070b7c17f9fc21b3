"""The rectification network, and the features it is fed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cuda_ext import BLEND_CHANNELS
from dain_core.fused.layers import FusedResidualBlock, SliceConv2d, widen, widened_weight
from dain_core.model import ModelConfig
from dain_core.modules.layers import ResidualBlock
from dain_core.modules.synthesis import RectificationNetwork


class FusedRectification(nn.Module):
    """What to add to the blend, float32, seen the warped contexts of both frames and what `blend_into` gathers."""

    stem: Tensor
    #: Rows above and below that the first convolution sees.
    margin = 3

    def __init__(self, network: RectificationNetwork, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer(
            "stem", widened_weight(_as_gathered(network.stem, config.context_channels), dtype)
        )
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        self.blocks = nn.Sequential(*(FusedResidualBlock(block, dtype) for block in blocks))
        self.head = SliceConv2d(network.head, 1.0, dtype, wide_output=True)


def _as_gathered(stem: nn.Conv2d, context: int) -> Tensor:
    """The first convolution's weight for the channels as they lie in memory: features, then `blend_into`'s.

    A context starts with the image, which is there already once warped: the two weights are added. The bias is the
    weight of the channel of ones: cuDNN's fused 7x7 convolution takes twenty times as long as its plain one.
    """
    rest, one, two = stem.weight.split([stem.in_channels - 2 * context, context, context], 1)
    blend, image_1, image_2, motion = rest.split([3, 3, 3, rest.shape[1] - 9], 1)
    (again_1, features_1, depth_1), (again_2, features_2, depth_2) = (
        part.split([3, context - 4, 1], 1) for part in (one, two)
    )
    bias = torch.zeros_like(depth_1)
    bias[:, 0, bias.shape[2] // 2, bias.shape[3] // 2] = cast(Tensor, stem.bias)
    gathered = torch.cat((blend, image_1 + again_1, image_2 + again_2, motion, depth_1, depth_2, bias), 1)
    return torch.cat((features_1, features_2, widen(gathered, BLEND_CHANNELS)), 1)
