"""Context features of a frame: what the rectification sees besides the warped pixels (DAIN, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import ResidualBlock


class ContextNetwork(nn.Module):
    """(N, 3 + 3 * width, H, W) from (N, 3, H, W): the image, and the features after each of three blocks.

    And after them what else is given, for those who need it all in one. Its dtype is the widest of all these.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, padding=3, bias=False)
        self.blocks = nn.ModuleList((ResidualBlock(width, dilation=4), ResidualBlock(width, dilation=8)))

    def forward(self, image: Tensor, *others: Tensor) -> Tensor:
        features = [image, F.relu_(self.stem(image.to(self.stem.weight.dtype)))]
        for block in self.blocks:
            features.append(block(features[-1]))
        return torch.cat((*features, *others), 1)
