"""The flow network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import enlarge_flow, match_into, match_warped_into
from dain_core.fused.layers import SliceConv2d, round_up, widen
from dain_core.modules.flow import FLOW_UNIT, Decoder, FlowNetwork


class FusedPyramidLevel(nn.Module):
    """A level of the features, which are widened with zeros to what tensor cores take at once."""

    def __init__(self, level: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        halve, *convs = (_widened(cast(nn.Conv2d, cast(nn.Sequential, layer)[0])) for layer in level)
        self.halve = halve.to(dtype)
        self.convs = nn.ModuleList(SliceConv2d(conv, 0.1, dtype) for conv in convs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu_(self.halve(x), 0.1)
        for conv in self.convs:
            x = conv(x)
        return x


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
    """One level of the flow. What `Decoder` concatenates is one tensor, filled from its end to its start."""

    def __init__(self, decoder: Decoder, up_features: nn.ConvTranspose2d | None, dtype: torch.dtype) -> None:
        super().__init__()
        convs = [cast(nn.Conv2d, cast(nn.Sequential, layer)[0]) for layer in decoder.dense]
        self.inputs = round_up(convs[0].in_channels)
        self.channels = self.inputs + sum(conv.out_channels for conv in convs)
        self.dense = nn.ModuleList(SliceConv2d(conv, 0.1, dtype) for conv in convs)
        predict = decoder.predict if up_features is None else _with_phases(decoder.predict, up_features)
        self.predict = SliceConv2d(predict, 1.0, dtype, wide_output=True)

    def forward(self, x: Tensor) -> Tensor:
        """From the last `inputs` of the channels of `x`, which takes all else.

        Returns:
            The flow, float32; at all levels but the finest followed by two features for the next, four channels each:
            `torch.nn.functional.pixel_shuffle` makes a map of twice the size of them.
        """
        start = self.channels - self.inputs
        for conv in self.dense:
            assert isinstance(conv, SliceConv2d)
            stop, start = start, start - conv.out_channels
            conv(x[:, stop:], x[:, start:stop])
        return self.predict(x)


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
    """Optical flow between two frames, each way at once: see `FlowNetwork`."""

    def __init__(self, network: FlowNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        levels = [cast(nn.Sequential, level) for level in network.pyramid]
        self.widths = [cast(nn.Conv2d, cast(nn.Sequential, level[0])[0]).out_channels for level in levels]
        self.pyramid = nn.ModuleList(FusedPyramidLevel(level, dtype) for level in levels)
        ups = [*(cast(nn.ConvTranspose2d, up) for up in network.up_features), None]
        self.decoders = nn.ModuleList(
            FusedDecoder(cast(Decoder, decoder), up, dtype)
            for decoder, up in zip(network.decoders, ups, strict=True)
        )
        self.up_flow = network.up_flow
        *dilated, last = network.refine
        self.refine = nn.Sequential(
            *(SliceConv2d(cast(nn.Conv2d, cast(nn.Sequential, layer)[0]), 0.1, dtype) for layer in dilated)
        )
        self.correct = SliceConv2d(cast(nn.Conv2d, last), 1.0, dtype, wide_output=True)

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """The feature pyramid of a frame, each level with as many more channels of zeros as round up their number."""
        maps = []
        for level in self.pyramid:
            image = level(image)
            maps.append(image)
        return tuple(maps)

    def forward(self, there: Sequence[Tensor], back: Sequence[Tensor]) -> Tensor:
        """The flow of pairs stacked both ways, in units of 20 pixels, at a quarter of their size, float32."""
        first, second = zip(*(level.chunk(2) for level in there), strict=True)
        return self._both_ways(first, second)

    def between(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The flow from the first frame to the second, and back, in pixels, at full size, float32."""
        forward, backward = enlarge_flow(self._both_ways(first, second), FLOW_UNIT).chunk(2)
        return forward, backward

    def _both_ways(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        coarse = None
        for step, decoder in enumerate(self.decoders):
            assert isinstance(decoder, FusedDecoder)
            level = len(first) - step
            ours, theirs = (pyramid[level - 1][:, : self.widths[level - 1]] for pyramid in (first, second))
            n, _, h, w = ours.shape
            x = ours.new_empty((2 * n, h, w, decoder.channels)).permute(0, 3, 1, 2)
            seen = x[:, -decoder.inputs :]
            if coarse is None:
                match_into(ours, theirs, seen)
            else:
                up = cast(nn.ConvTranspose2d, self.up_flow[step - 1])
                assert up.bias is not None
                match_warped_into(ours, theirs, coarse, up.weight, up.bias, FLOW_UNIT / 2**level, seen)
            coarse = decoder(x)
        assert coarse is not None
        return self.correct(self.refine(x), coarse, plus=coarse)
