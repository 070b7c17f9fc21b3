"""The multiscale rectification: a U-Net over the warped context of both frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import FullPrecisionConv2d, upsample
from dain_core.network.modules.pyramid import leaky_conv


class MultiscaleRectification(nn.Module):
    """Computes the residual that is added to the blended frame.

    Args:
        seen: the channels of the input at 1/2 of the frame's size.
        contexts: for each level the channels of the warped contexts of both frames together, from 1/2 of the size on.
        widths: the widths of the levels of the U-Net, from 1/2 of the size on.
    """

    def __init__(self, seen: int, contexts: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        self.mix = nn.ModuleList()
        before = seen
        for level, (context, width) in enumerate(zip(contexts, widths, strict=True)):
            if level:
                self.down.append(leaky_conv(before, width, stride=2))
            entering = width if level else seen
            self.mix.append(nn.Sequential(leaky_conv(entering + context, width), leaky_conv(width, width)))
            before = width
        self.up = nn.ModuleList(
            nn.Sequential(leaky_conv(fine + coarse, fine), leaky_conv(fine, fine))
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.head = FullPrecisionConv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, seen: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """Return the residual, (N, 3, H, W).

        Args:
            seen: the input, (N, channels, H / 2, W / 2).
            contexts: the warped contexts of both frames at 1/2, 1/4, … of the size.
        """
        x, maps = seen, []
        for level, context in enumerate(contexts):
            if level:
                x = self.down[level - 1](x)
            x = self.mix[level](torch.cat((x, context), 1))
            maps.append(x)
        for level in range(len(maps) - 2, -1, -1):
            x = self.up[level](torch.cat((maps[level], upsample(x, 2)), 1))
        return F.pixel_shuffle(self.head(x), 2)
