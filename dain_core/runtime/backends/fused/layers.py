"""What the fused networks are made of: convolutions from and into slices of channels."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import convolve_into, pack_weight
from dain_core.network.modules.layers import ResidualBlock
from dain_core.runtime.calibration import range_of

#: Channels are aligned to this: what a tensor core takes at once.
GROUP = 16
#: A type for inputs and weights of convolutions that compute capability 9.0 multiplies twice as fast as float16.
EIGHT_BITS = torch.float8_e4m3fn
#: The number of eight bits that the greatest magnitude of a calibration becomes. Numbers up to 448 leave room for seven
#: times as much, and those down to 2^-6 have the same relative precision.
_GREATEST = 64
#: From this width on, cuDNN's convolutions are faster than ours; those of residual blocks, which
#: may be dilated, from the other.
WIDE, WIDE_BLOCK = 128, 64


def round_up(channels: int) -> int:
    return -(-channels // GROUP) * GROUP


def widen(x: Tensor, channels: int) -> Tensor:
    """`x` with zeros for channels up to `channels`."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1])) if channels > x.shape[1] else x


def empty(like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    n, _, h, w = like.shape
    return torch.empty(
        (n, channels, h, w),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def unit_of(*convs: nn.Conv2d) -> float:
    """What 1 stands for in a tensor of eight bits that these convolutions see. They must be calibrated."""
    ends = [abs(end) for conv in convs for end in range_of(conv) or ()]
    return max(*ends, 1e-6) / _GREATEST


def store(out: Tensor, values: Tensor) -> Tensor:
    """Copy `values` to `out`, whose eight bits hold no more than 448."""
    return out.copy_(values.clamp(-448, 448) if out.dtype == EIGHT_BITS else values)


class SliceConv2d(nn.Module):
    """leaky_relu(conv(x) + plus), from and into slices of channels.

    Given `dtype` float8_e4m3fn it multiplies eight bits, each output's weights scaled to their range.

    Args:
        dtype: of the input and the weight.
        wide_output: whether the result is float32. Else it has `dtype`, or is float16 for eight bits.
        unit: what 1 stands for in an input of eight bits.
        result: what 1 stands for in the result, which then has eight bits: one number, or one for each channel.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        slope: float,
        dtype: torch.dtype,
        wide_output: bool = False,
        unit: float | None = None,
        result: float | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.out_channels, self.slope = conv.out_channels, slope
        self.padding, self.dilation = cast(tuple[int, int], conv.padding), conv.dilation[0]
        self.out_dtype = torch.float32 if wide_output else torch.float16 if dtype == EIGHT_BITS else dtype
        weight = conv.weight.detach()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        if result is not None:
            self.out_dtype = EIGHT_BITS
            shares = 1 / torch.as_tensor(result, dtype=weight.dtype).expand(len(weight))
            weight, bias = weight * shares[:, None, None, None], bias * shares
        scale = None
        if dtype == EIGHT_BITS:
            scale = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / torch.finfo(dtype).max
            weight = weight / scale[:, None, None, None]
            scale = scale * (1.0 if unit is None else unit)
        if dtype == torch.float32:  # which tensor cores do not multiply
            weight = widened_weight(weight, dtype)
        else:
            weight, bias = pack_weight(weight, bias, dtype)
            scale = None if scale is None else F.pad(scale, (0, len(bias) - len(scale)))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, out: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
        if x.dtype == torch.float32:
            result = F.conv2d(x, self.weight, self.bias, 1, self.padding, self.dilation)
            result = F.leaky_relu_(result if plus is None else result.add_(plus), self.slope)
            if out is None and self.out_dtype == x.dtype:
                return result
            return store(empty(x, self.out_channels, self.out_dtype) if out is None else out, result)
        if out is None:
            out = empty(x, self.out_channels, self.out_dtype)
        convolve_into(
            x, self.weight, self.bias, self.slope, out, scale=self.scale, plus=plus, dilation=self.dilation
        )
        return out


class WideConv2d(nn.Module):
    """relu(conv(x) + plus), as one kernel of cuDNN."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.padding, self.dilation = cast(tuple[int, int], conv.padding), conv.dilation
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("weight", widened_weight(conv.weight, dtype))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if x.is_cuda:
            shape = ((1, 1), self.padding, self.dilation, 1)
            if plus is None:
                return torch.cudnn_convolution_relu(x, self.weight, self.bias, *shape)
            return torch.cudnn_convolution_add_relu(x, self.weight, plus, 1, self.bias, *shape)
        result = F.conv2d(x, self.weight, self.bias, 1, self.padding, self.dilation)
        return F.relu(result if plus is None else result + plus)


def widened_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """With its input channels filled up: cuDNN copies the input at every call if they are no multiple of 8."""
    widened = widen(weight.detach().to(dtype), round_up(weight.shape[1]))
    return widened.contiguous(memory_format=torch.channels_last)


def relu_conv(conv: nn.Conv2d, dtype: torch.dtype) -> SliceConv2d | WideConv2d:
    narrow = max(conv.in_channels, conv.out_channels) < WIDE and conv.dilation == (1, 1)
    return SliceConv2d(conv, 0.0, dtype) if narrow else WideConv2d(conv, dtype)


class FusedResidualBlock(nn.Module):
    """A narrow one can put its result into a slice of channels, `out`.

    Args:
        unit: what 1 stands for in its input and in its result, if they have eight bits.
    """

    def __init__(self, block: ResidualBlock, dtype: torch.dtype, unit: float | None = None) -> None:
        super().__init__()
        self.narrow = unit is not None or block.conv1.out_channels < WIDE_BLOCK
        self.conv1: nn.Module
        self.conv2: nn.Module
        if unit is not None:
            between = unit_of(block.conv2)
            self.conv1 = SliceConv2d(block.conv1, 0.0, EIGHT_BITS, unit=unit, result=between)
            self.conv2 = SliceConv2d(block.conv2, 0.0, EIGHT_BITS, unit=between, result=unit)
        else:
            self.conv1, self.conv2 = (
                SliceConv2d(conv, 0.0, dtype) if self.narrow else WideConv2d(conv, dtype)
                for conv in (block.conv1, block.conv2)
            )

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if self.narrow:
            return self.conv2(self.conv1(x), out, plus=x)
        return self.conv2(self.conv1(x), plus=x)
