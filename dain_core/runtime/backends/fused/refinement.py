"""The parts of `RefinedDAIN` that follow the projection: each convolution and what follows it as one kernel."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dain_core.network.modules.refinement import Residual
from dain_core.runtime.backends.fused.layers import SliceConv2d


class FusedResidual(nn.Module):
    """See `Residual`."""

    def __init__(self, block: Residual, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = SliceConv2d(cast(nn.Conv2d, block.conv1[0]), 0.1, dtype)
        self.conv2 = SliceConv2d(block.conv2, 0.1, dtype)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv2(self.conv1(x), plus=x)
        return made


def fuse(network: nn.Module, dtype: torch.dtype) -> None:
    """Replace in `network`, in place, residual blocks, and convolutions of stride 1 with their activation.

    Args:
        network: whose weights lie on the device that it will run on. What these convolutions see has a multiple of 16
            channels.
        dtype: of the weights.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Residual):
                setattr(module, name, FusedResidual(child, dtype))
            elif _is_activated(child):
                conv = cast(nn.Conv2d, next(child.children()))
                setattr(module, name, SliceConv2d(conv, 0.1, dtype))


def _is_activated(module: nn.Module) -> bool:
    """Whether a module is what `leaky_conv` makes with stride 1."""
    if not isinstance(module, nn.Sequential) or len(module) != 2:
        return False
    conv, activation = module
    return isinstance(conv, nn.Conv2d) and conv.stride == (1, 1) and isinstance(activation, nn.LeakyReLU)
