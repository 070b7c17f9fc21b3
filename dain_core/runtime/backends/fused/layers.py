"""What the fused networks are made of: convolutions from and into slices of channels."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import convolve_into, pack_weight
from dain_core.network.modules.layers import ResidualBlock

#: Channels are aligned to this: what a tensor core takes at once.
GROUP = 16
#: A type for inputs and weights of convolutions that compute capability 9.0 multiplies twice as fast as float16.
EIGHT_BITS = torch.float8_e4m3fn
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


class SliceConv2d(nn.Module):
    """leaky_relu(conv(x) + plus), from and into slices of channels.

    Given `dtype` float8_e4m3fn it multiplies eight bits, each output's weights scaled to their range, and its result
    is float16.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor | None

    def __init__(self, conv: nn.Conv2d, slope: float, dtype: torch.dtype, wide_output: bool = False) -> None:
        super().__init__()
        self.out_channels, self.slope = conv.out_channels, slope
        self.padding, self.dilation = cast(tuple[int, int], conv.padding), conv.dilation[0]
        self.out_dtype = torch.float32 if wide_output else torch.float16 if dtype == EIGHT_BITS else dtype
        weight = conv.weight.detach()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        scale = None
        if dtype == EIGHT_BITS:
            scale = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / torch.finfo(dtype).max
            weight = weight / scale[:, None, None, None]
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
            return result if out is None else out.copy_(result)
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
    """A narrow one can put its result into a slice of channels, `out`."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.narrow = block.conv1.out_channels < WIDE_BLOCK
        self.conv1, self.conv2 = (
            SliceConv2d(conv, 0.0, dtype) if self.narrow else WideConv2d(conv, dtype)
            for conv in (block.conv1, block.conv2)
        )

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if self.narrow:
            return self.conv2(self.conv1(x), out, plus=x)
        return self.conv2(self.conv1(x), plus=x)
