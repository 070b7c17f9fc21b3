"""A network whose blocks have different precisions, on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dain_core.network.modules.layers import convert


def convert_blocks(network: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give each block of a prepared network its dtype, in place. What a layer sees gets the dtype of its weight.

    Args:
        network: what `prepare` made.
        dtypes: the dtype of each block by name.
    """
    for block, dtype in dtypes.items():
        convert(network.get_submodule(block), dtype)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_pre_hook(_cast)


def _cast(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *others = inputs
    return x.to(module.weight.dtype), *others
