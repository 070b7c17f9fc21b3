"""Eight bits simulated in floats, with a gradient, so that a network can learn to lose less by them.

Rounding passes the gradient on as if it were not there, and what is cut off has none (Jacob et al., CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dain_core.network.networks import Network
from dain_core.runtime.backends.fused.layers import EIGHT_BITS, unit_of
from dain_core.runtime.backends.int8 import is_quantised, quantised_range
from dain_core.runtime.calibration import channels_of

#: A convolution's own function of its input, weight and bias.
_Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@contextmanager
def simulated(network: Network, precision: str, blocks: Collection[str]) -> Iterator[None]:
    """Within this, the convolutions of some blocks compute as if they had eight bits.

    Args:
        network: a calibrated network in float32; see `Calibration.apply`.
        precision: "int8" or "fp8".
        blocks: the blocks, of those that the network has.
    """
    chosen = [
        module
        for name, block in network.named_children()
        if name in blocks
        for module in block.modules()
        if is_quantised(module)
    ]
    round_both = {"int8": _int8, "fp8": _fp8}[precision]
    for conv in chosen:
        assert isinstance(conv, nn.Conv2d)
        conv._conv_forward = _rounding(conv, conv._conv_forward, round_both)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for conv in chosen:
            del conv._conv_forward


def _rounding(
    conv: nn.Conv2d,
    convolve: _Convolve,
    round_both: Callable[[nn.Conv2d, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> _Convolve:
    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rounded, steps = round_both(conv, x.float(), weight.float())
        return convolve(rounded.to(x.dtype), steps.to(weight.dtype), bias)

    return run


def _int8(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """An input and a weight as `Int8Conv2d` rounds them."""
    low, high = quantised_range(conv)
    channels = channels_of(conv)
    if channels is not None:
        count = weight.shape[1]  # in training on a GPU it may be that of channels with zeros, see `aligned`
        sizes = F.pad(channels[:count].clamp(min=1e-6), (0, max(count - len(channels), 0)), value=1.0)
        sizes = sizes.to(x.device)[:, None, None]
        x, weight = x[:, :count] / sizes, weight * sizes
    step = (high - low) / 255
    x = torch.fake_quantize_per_tensor_affine(x, step, round(-low / step), 0, 255)
    steps = weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-12) / 127
    zeros = torch.zeros_like(steps, dtype=torch.int32)
    return x, torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -127, 127)


def _fp8(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """An input and a weight as `SliceConv2d` rounds them."""
    scale = weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / 448
    return _e4m3(x, unit_of(conv)), _e4m3(weight, scale)


def _e4m3(x: Tensor, unit: float | Tensor) -> Tensor:
    held = (x / unit).clamp(-448, 448)
    return (held + (held.to(EIGHT_BITS).to(x.dtype) - held).detach()) * unit
