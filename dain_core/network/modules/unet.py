"""The multiscale rectification: a U-Net over the warped context of both frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.modules.layers import FullPrecisionConv2d, SlackConv2d, upsample
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
            first = leaky_conv(entering + context, width, SlackConv2d)
            self.mix.append(nn.Sequential(first, leaky_conv(width, width)))
            before = width
        self.up = nn.ModuleList(
            nn.Sequential(leaky_conv(fine + coarse, fine), leaky_conv(fine, fine))
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.head = FullPrecisionConv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, seen: Iterator[Tensor]) -> Tensor:
        """Return the residual, (N, 3, H, W).

        Args:
            seen: gives for each level, from 1/2 of the size on, the warped contexts of both frames; for the first
                level the input and the contexts as one map, whose last channels may be zeros.
        """
        x = self.mix[0](next(seen))
        maps = [x]
        for down, mix in zip(self.down, self.mix[1:], strict=True):
            x = mix(torch.cat((down(x), next(seen)), 1))
            maps.append(x)
        del maps[-1]
        for up in reversed(self.up):
            x = up(torch.cat((maps.pop(), upsample(x, 2)), 1))
        return F.pixel_shuffle(self.head(x), 2)
