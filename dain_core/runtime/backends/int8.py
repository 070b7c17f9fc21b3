"""Convolutions of eight bits on a CPU: oneDNN multiplies them by VNNI or AMX. All else of the network stays as it is.

Inputs are rounded to 256 steps between the ends of a range that a calibration found, weights to 255 steps of each
output's own size. The sums are exact, and become floats.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from dain_core.network.modules.layers import FullPrecision, ResidualBlock
from dain_core.runtime.calibration import channels_of, range_of

# Tensors that carry their scale are deprecated. But the function that makes them is the only one that rounds at once.
warnings.filterwarnings("ignore", "torch.quantize_per_tensor")

#: Convolutions from or to fewer channels see or make pixels and coordinates. They are little work.
_NARROW = 5


class Int8Conv2d(nn.Module):
    """A convolution whose input and weight are rounded to eight bits.

    Args:
        conv: the convolution, without groups, whose input range is known.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.inputs = conv.in_channels  # what a SlackConv2d sees beyond them does not count
        low, high = quantised_range(conv)
        weight = conv.weight.detach().float()
        channels = channels_of(conv)
        self.share: Tensor | None = None
        if channels is not None:  # each channel has a scale of its own, which the weights take on
            channels = channels[: conv.in_channels].clamp(min=1e-6)
            self.share, weight = 1 / channels[:, None, None], weight * channels[:, None, None]
        self.step, self.zero = (high - low) / 255, round(-low * 255 / (high - low))
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.padding = list(cast(tuple[int, int], conv.padding))
        self.weight_steps = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / 127
        self.zeros = torch.zeros(conv.out_channels, dtype=torch.int64)
        whole = (weight / self.weight_steps[:, None, None, None]).round().to(torch.int8)
        shape = (self.stride, self.padding, self.dilation, 1)
        self.weight = torch.ops.onednn.qconv_prepack(
            whole, self.weight_steps, self.step, self.zero, *shape, None
        )
        self.bias = None if conv.bias is None else conv.bias.detach().float()
        self._result = 1.0, 0, conv.weight.dtype, "none"

    def hand_on_to(self, after: Int8Conv2d) -> None:
        """Make the result what `after` rounds its input to: after a ReLU, in bytes, which a ReLU leaves alone."""
        if after.share is None and after.zero == 0:
            self._result = after.step, 0, torch.uint8, "relu"

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x`, (N, C, H, W), in the network's dtype, or as bytes; `x` may be bytes, too."""
        given = self.step, self.zero, self.weight, self.weight_steps, self.zeros, self.bias
        shape = self.stride, self.padding, self.dilation, 1
        rounded = x if x.dtype == torch.uint8 else self._rounded(x)
        made: Tensor = torch.ops.onednn.qconv_pointwise(rounded, *given, *shape, *self._result, [], "")
        return made

    def _rounded(self, x: Tensor) -> Tensor:
        x = x[:, : self.inputs]
        x = x.float() if self.share is None else x * self.share
        x = x.contiguous(memory_format=torch.channels_last)
        rounded = torch.quantize_per_tensor(x, self.step, self.zero, torch.quint8)
        # Its bytes without its scale, not copied.
        return torch.empty(0, dtype=torch.uint8).set_(
            rounded.untyped_storage(), 0, rounded.shape, rounded.stride()
        )


def quantised_range(conv: nn.Conv2d) -> tuple[float, float]:
    """The range of a convolution's input, with 0 in it, so that what lies beyond the border is exact.

    Where channels have scales of their own, it is in these scales: of a channel only the greatest magnitude is known.
    """
    span = range_of(conv)
    assert span is not None
    if channels_of(conv) is not None:
        return (-1.0 if span[0] < 0 else 0.0), 1.0
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    return low, max(high, low + 1e-6)


def is_quantised(conv: nn.Module) -> bool:
    """Whether `conv` is a convolution that takes eight bits: it has a range, and neither sees nor makes pixels."""
    if not isinstance(conv, nn.Conv2d) or isinstance(conv, FullPrecision) or range_of(conv) is None:
        return False
    return conv.groups == 1 and min(conv.in_channels, conv.out_channels) >= _NARROW


def quantise(network: nn.Module, blocks: Collection[str]) -> None:
    """Replace the convolutions of some blocks of `network`, whose ranges are known, in place."""
    for block in blocks:
        for module in list(network.get_submodule(block).modules()):
            for name, child in list(module.named_children()):
                if is_quantised(child):
                    setattr(module, name, Int8Conv2d(cast(nn.Conv2d, child)))
            for first, second in _pairs(module):
                first.hand_on_to(second)


def _pairs(module: nn.Module) -> Iterator[tuple[Int8Conv2d, Int8Conv2d]]:
    """Give the convolutions between which nothing but a ReLU lies."""
    if isinstance(module, ResidualBlock):
        layers: list[nn.Module] = [module.conv1, nn.ReLU(), module.conv2]
    elif isinstance(module, nn.Sequential):
        layers = [layer for layer in module if not isinstance(layer, nn.Identity)]
    else:
        return
    for first, between, second in zip(layers, layers[1:], layers[2:], strict=False):
        if isinstance(first, Int8Conv2d) and isinstance(between, nn.ReLU) and isinstance(second, Int8Conv2d):
            yield first, second


def has_instructions() -> bool:
    """Whether this CPU multiplies eight bits faster than floats."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
