"""The flow network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import enlarge_flow, match_into, match_warped_into, unshuffle_into
from dain_core.network.modules.flow import FLOW_UNIT, Decoder, FlowNetwork
from dain_core.network.modules.layers import downsample, upsample
from dain_core.runtime.backends.fused.layers import GROUP, SliceConv2d, empty, round_up, widen


def _conv_of(layer: nn.Module) -> nn.Conv2d:
    """The convolution of a convolution and its activation."""
    return cast(nn.Conv2d, cast(nn.Sequential, layer)[0])


class HalvingConv2d(nn.Module):
    """leaky_relu(conv(x)) of stride 2."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = _widened(conv).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(self.conv(x), 0.1)


class HalvingStem(nn.Module):
    """leaky_relu(conv(image)) of stride 2, of an image (N, 3, H, W), float32.

    A convolution of stride 2 is one of stride 1 of the 2 x 2 pixels as channels, which leave less of a tensor core idle
    than three colours do.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        # Taps -1, 0, 1 become 1 of the pixel before, 0 and 1 of the same.
        weight = F.pixel_unshuffle(F.pad(conv.weight.data, (1, 0, 1, 0)), 2)
        unshuffled = nn.Conv2d(weight.shape[1], conv.out_channels, 3, padding=1)
        unshuffled.weight.data, unshuffled.bias = F.pad(weight, (0, 1, 0, 1)), conv.bias
        self.conv, self.dtype = SliceConv2d(_widened(unshuffled), 0.1, dtype), dtype

    def forward(self, image: Tensor) -> Tensor:
        x = empty(image[:, :, ::2, ::2], GROUP, self.dtype)
        unshuffle_into(image, x)
        return self.conv(x)


def _widened(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with as many more inputs and outputs, of zeros, as round up their numbers."""
    outputs, inputs = round_up(conv.out_channels), round_up(conv.in_channels)
    result = nn.Conv2d(inputs, outputs, 3, cast(tuple[int, int], conv.stride), padding=1)
    missing = outputs - conv.out_channels
    weight = F.pad(widen(conv.weight.data, inputs), (0, 0, 0, 0, 0, 0, 0, missing))
    result.weight.data = weight.contiguous(memory_format=torch.channels_last)
    result.bias = nn.Parameter(F.pad(cast(Tensor, conv.bias).data, (0, missing)), False)
    return result


class FusedDecoder(nn.Module):
    """One level of the flow, both ways. What `Decoder` concatenates is one tensor, filled from its end to its start.

    Args:
        scale: from the flow's unit to pixels of this level.
        up_flow: enlarges the coarser level's flow; none at the coarsest.
        up_features: makes features for the next finer level; none at the finest.
    """

    up_weight: Tensor
    up_bias: Tensor

    def __init__(
        self,
        decoder: Decoder,
        scale: float,
        up_flow: nn.ConvTranspose2d | None,
        up_features: nn.ConvTranspose2d | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        convs = [_conv_of(layer) for layer in decoder.dense]
        self.inputs = round_up(convs[0].in_channels)
        self.channels = self.inputs + sum(conv.out_channels for conv in convs)
        self.dense = nn.ModuleList(SliceConv2d(conv, 0.1, dtype) for conv in convs)
        predict = decoder.predict if up_features is None else _with_phases(decoder.predict, up_features)
        self.predict = SliceConv2d(predict, 1.0, dtype, wide_output=True)
        self.scale = scale
        if up_flow is not None:
            self.register_buffer("up_weight", up_flow.weight.data.permute(2, 3, 0, 1).contiguous())
            self.register_buffer("up_bias", cast(Tensor, up_flow.bias).data)

    def forward(self, first: Tensor, second: Tensor, coarse: Tensor | None) -> tuple[Tensor, Tensor]:
        """Estimates the flow of this level from two frames' features and from what the coarser level said.

        Returns:
            The flow, float32, at all levels but the finest followed by eight channels: two features for the next, as
            `torch.nn.functional.pixel_shuffle` takes them. And all that they were made of.
        """
        n, _, h, w = first.shape
        x = first.new_empty((2 * n, h, w, self.channels)).permute(0, 3, 1, 2)
        start = self.channels - self.inputs
        if coarse is None:
            match_into(first, second, x[:, start:])
        else:
            match_warped_into(first, second, coarse, self.up_weight, self.up_bias, self.scale, x[:, start:])
        for conv in self.dense:
            assert isinstance(conv, SliceConv2d)
            stop, start = start, start - conv.out_channels
            conv(x[:, stop:], x[:, start:stop])
        return self.predict(x), x


def _with_phases(conv: nn.Conv2d, up: nn.ConvTranspose2d) -> nn.Conv2d:
    """The 3x3 convolution, and the transposed one of kernel 4, stride 2, padding 1, as one.

    The latter's pixels with even and odd coordinates are each a convolution with two of its four taps along an axis.
    """
    taps = F.pad(up.weight.data.flip(2, 3), (1, 1, 1, 1))
    phases = [taps[:, :, 1 - y :: 2, 1 - x :: 2] for y in range(2) for x in range(2)]
    weight = torch.stack(phases, 2).flatten(1, 2).transpose(0, 1)
    result = nn.Conv2d(conv.in_channels, conv.out_channels + len(weight), 3, padding=1)
    result.weight.data = torch.cat((conv.weight.data, weight))
    biases = cast(Tensor, conv.bias).data, cast(Tensor, up.bias).data.repeat_interleave(4)
    result.bias = nn.Parameter(torch.cat(biases), False)
    return result


class FusedFlow(nn.Module):
    """Optical flow between two frames, each way at once: see `FlowNetwork`.

    Args:
        scale: the whole factor by which a frame is shrunk.
    """

    def __init__(self, network: FlowNetwork, dtype: torch.dtype, scale: int = 1) -> None:
        super().__init__()
        self.scale, self.shrinks = scale, int(2 ** network.levels[-1]) * scale
        levels = [[_conv_of(layer) for layer in cast(nn.Sequential, level)] for level in network.pyramid]
        self.widths = [convs[0].out_channels for convs in levels]
        self.pyramid = nn.ModuleList()
        for halve, *convs in levels:
            first = HalvingConv2d(halve, dtype) if self.pyramid else HalvingStem(halve, dtype)
            rest = (SliceConv2d(_widened(conv), 0.1, dtype) for conv in convs)
            self.pyramid.append(nn.Sequential(first, *rest))
        self.decoders = nn.ModuleList()
        ups = zip((None, *network.up_flow[:-1]), (*network.up_features, None), strict=True)
        for level, decoder, up in zip(range(len(levels), 0, -1), network.decoders, ups, strict=False):
            scale = FLOW_UNIT / 2**level
            self.decoders.append(FusedDecoder(cast(Decoder, decoder), scale, *up, dtype))
        self.refine: nn.Sequential | None = None
        if len(network.refine):
            *dilated, last = network.refine
            self.refine = nn.Sequential(*(SliceConv2d(_conv_of(layer), 0.1, dtype) for layer in dilated))
            self.correct = SliceConv2d(cast(nn.Conv2d, last), 1.0, dtype, wide_output=True)

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of an image (N, 3, H, W), with as many more channels of zeros as round up each level's number."""
        maps = [downsample(image, self.scale)]
        for level in self.pyramid:
            maps.append(level(maps[-1]))
        return tuple(maps[1:])

    def between(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The flow from the first frame to the second, and back, in pixels, at full size, float32."""
        flow, x = None, None
        levels = zip(self.decoders, self.widths[::-1], first[::-1], second[::-1], strict=False)
        for decoder, width, ours, theirs in levels:
            flow, x = decoder(ours[:, :width], theirs[:, :width], flow)
        if self.refine is not None:
            flow = self.correct(self.refine(x), flow, plus=flow)
        assert flow is not None
        unit = FLOW_UNIT * self.scale
        enlarged = enlarge_flow(flow, unit) if self.shrinks == 4 else upsample(unit * flow, self.shrinks)
        forward, backward = enlarged.chunk(2)
        return forward, backward
