"""The depth network."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dain_core.fused.layers import SliceConv2d, WideConv2d, empty
from dain_core.modules.depth import Inception, fold_batch_norm


class FusedInception(nn.Module):
    """All 1x1 convolutions as one; the others read slices of its result and write slices of the block's."""

    def __init__(self, block: Inception, dtype: torch.dtype) -> None:
        super().__init__()
        branches = [
            [layer for layer in branch.children() if isinstance(layer, nn.Conv2d)] for branch in block
        ]
        firsts = [branch[0] for branch in branches]
        merged = nn.Conv2d(firsts[0].in_channels, sum(conv.out_channels for conv in firsts), 1)
        merged.weight.data = torch.cat([conv.weight for conv in firsts])
        merged.bias = nn.Parameter(torch.cat([cast(Tensor, conv.bias) for conv in firsts]))
        self.reduce = WideConv2d(merged, dtype)
        self.convs = nn.ModuleList(SliceConv2d(branch[1], 0.0, dtype) for branch in branches[1:])
        self.width, self.middle = firsts[0].out_channels, firsts[1].out_channels

    def forward(self, x: Tensor) -> Tensor:
        direct, *reduced = self.reduce(x).split([self.width] + [self.middle] * len(self.convs), 1)
        out = empty(x, self.width * (1 + len(self.convs)))
        slices = out.split(self.width, 1)
        slices[0].copy_(direct)
        for conv, source, target in zip(self.convs, reduced, slices[1:], strict=True):
            conv(source, target)
        return out


class FusedDepth(nn.Module):
    """Log depth (N, 1, H, W), float32."""

    def __init__(self, network: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        fold_batch_norm(network)
        stem, hourglass, head = network[0], network[3], network[4]
        self.stem = WideConv2d(cast(nn.Conv2d, stem), dtype)
        _fuse_inceptions(hourglass, dtype)
        self.hourglass = hourglass
        self.head = SliceConv2d(cast(nn.Conv2d, head), 1.0, dtype, wide_output=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.hourglass(self.stem(image)))


def _fuse_inceptions(module: nn.Module, dtype: torch.dtype) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, Inception):
            setattr(module, name, FusedInception(child, dtype))
        else:
            _fuse_inceptions(child, dtype)
