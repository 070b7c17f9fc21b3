"""The kernel network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.fused.layers import SliceConv2d, relu_conv
from dain_core.modules.kernels import KernelNetwork
from dain_core.modules.layers import upsample


class FusedKernels(nn.Module):
    """Interpolation kernels: see `KernelNetwork`."""

    def __init__(self, network: KernelNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.down = nn.ModuleList(relu_conv(cast(nn.Conv2d, conv), dtype) for conv in network.down)
        self.up = nn.ModuleList(relu_conv(cast(nn.Conv2d, conv), dtype) for conv in network.up)
        self.heads = nn.ModuleList(
            nn.Sequential(
                SliceConv2d(cast(nn.Conv2d, head[0]), 0.0, dtype),
                SliceConv2d(cast(nn.Conv2d, head[2]), 1.0, dtype),
            )
            for head in cast(Sequence[nn.Sequential], network.heads)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down[0](images)
        before_pooling = []
        for conv in self.down[1:-1]:
            x = conv(x)
            before_pooling.append(x)
            x = F.max_pool2d(x, 2)
        x = self.down[-1](x)
        for conv, skip in zip(self.up, reversed(before_pooling), strict=True):
            x = conv(upsample(x, 2).add_(skip))
        return self.heads[0](x), self.heads[1](x)
