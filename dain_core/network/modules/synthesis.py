"""Frame synthesis: the rectification of the blended frame (DAIN, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import ResidualBlock


class RectificationNetwork(nn.Module):
    """What to add to the blended frame, (N, 3, H, W), seen all that was warped, (N, channels, H, W).

    Args:
        kernel: the size of the first convolution's, the only one that sees `channels` of them.
    """

    def __init__(self, channels: int, kernel: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu_(self.stem(x))))
