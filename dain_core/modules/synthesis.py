"""Frame synthesis: the rectification of the blended frame (DAIN, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.modules.layers import ResidualBlock


class RectificationNetwork(nn.Module):
    """What to add to the blended frame, (N, 3, H, W), seen all that was warped, (N, channels, H, W)."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 7, padding=3)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))))
