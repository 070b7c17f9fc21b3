"""The kernel network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cuda_ext import pool_into, stack_into, upsample_add_into
from dain_core.network.modules.kernels import TAPS, KernelNetwork
from dain_core.runtime.backends.fused.layers import GROUP, SliceConv2d, empty, relu_conv


class FusedKernels(nn.Module):
    """Interpolation kernels: see `KernelNetwork`."""

    def __init__(self, network: KernelNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.down = nn.ModuleList(relu_conv(cast(nn.Conv2d, conv), dtype) for conv in network.down)
        self.up = nn.ModuleList(relu_conv(cast(nn.Conv2d, conv), dtype) for conv in network.up)
        firsts, lasts = (
            [cast(Sequence[nn.Conv2d], head)[index] for head in network.heads] for index in (0, 2)
        )
        self.heads = SliceConv2d(_merged(firsts), 0.0, dtype)
        self.last = nn.ModuleList(SliceConv2d(conv, 1.0, dtype) for conv in lasts)

    def between(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The kernels (N, 16, H, W) of each of two frames (N, 3, H, W), float32."""
        images = empty(first, GROUP, self.dtype)
        stack_into(first, second, images)
        x = self.down[0](images)
        before_pooling = []
        for conv in self.down[1:-1]:
            x = conv(x)
            before_pooling.append(x)
            smaller = empty(x[:, :, ::2, ::2], x.shape[1])
            pool_into(x, False, smaller)
            x = smaller
        x = self.down[-1](x)
        for conv, skip in zip(self.up, reversed(before_pooling), strict=True):
            upsample_add_into(x, skip, True, skip)
            x = conv(skip)
        of_first, of_second = (
            conv(part) for conv, part in zip(self.last, self.heads(x).split(TAPS, 1), strict=True)
        )
        return of_first, of_second


def _merged(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """Convolutions of the same input as one."""
    outputs = sum(conv.out_channels for conv in convs)
    result = nn.Conv2d(convs[0].in_channels, outputs, 3, padding=1)
    result.weight.data = torch.cat([conv.weight.data for conv in convs])
    result.bias = nn.Parameter(torch.cat([cast(Tensor, conv.bias).data for conv in convs]), False)
    return result
