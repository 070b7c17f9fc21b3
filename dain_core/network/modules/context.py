"""Context features of a frame, which the rectification sees beside the warped pixels (DAIN, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import ResidualBlock


class ContextNetwork(nn.Module):
    """Computes the context of images: the images themselves, and the features after each of three blocks.

    Args:
        width: the channels of the features of a block.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, padding=3, bias=False)
        self.blocks = nn.ModuleList((ResidualBlock(width, dilation=4), ResidualBlock(width, dilation=8)))

    def forward(self, image: Tensor, *others: Tensor) -> Tensor:
        """Return the context of `image`, (N, 3, H, W), followed by `others`, (N, any, H, W) each.

        The result has 3 + 3 * `width` channels and those of `others`. Its dtype is the widest of all its parts.
        """
        features = [image, F.relu_(self.stem(image.to(self.stem.weight.dtype)))]
        for block in self.blocks:
            features.append(block(features[-1]))
        return torch.cat((*features, *others), 1)
