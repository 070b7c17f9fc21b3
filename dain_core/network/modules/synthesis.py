"""Frame synthesis: the rectification of the blended frame (DAIN, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import ResidualBlock


class RectificationNetwork(nn.Module):
    """Computes the residual that is added to the blended frame.

    Args:
        channels: the input channels; see `ModelConfig.rectify_channels`.
        kernel: the kernel size of the first convolution. The others are 3x3.
        width: the channels of the features.
        blocks: the number of residual blocks.
    """

    def __init__(self, channels: int, kernel: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual, (N, 3, H, W), for the warped inputs `x`, (N, `channels`, H, W)."""
        return self.head(self.blocks(F.relu_(self.stem(x))))
