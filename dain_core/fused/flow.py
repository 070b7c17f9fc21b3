"""The flow network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import correlation
from dain_core.fused.layers import SliceConv2d, empty, round_up, widen, widened_weight
from dain_core.modules.flow import FLOW_UNIT, Decoder, FlowNetwork, bilinear_warp


class FusedDecoder(nn.Module):
    """One level of the flow. What `Decoder` concatenates is one tensor, filled from its end to its start."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        convs = [cast(nn.Conv2d, cast(nn.Sequential, layer)[0]) for layer in decoder.dense]
        self.inputs = round_up(convs[0].in_channels)
        self.channels = self.inputs + sum(conv.out_channels for conv in convs)
        self.dense = nn.ModuleList(SliceConv2d(conv, 0.1, dtype) for conv in convs)
        self.predict = SliceConv2d(decoder.predict, 1.0, dtype, wide_output=True)

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        x = empty(parts[0], self.channels)
        start = self.channels - self.inputs
        given = torch.cat([part.to(x.dtype) for part in parts], 1)
        x[:, start:].copy_(widen(given, self.inputs))
        for conv in self.dense:
            assert isinstance(conv, SliceConv2d)
            stop, start = start, start - conv.out_channels
            conv(x[:, stop:], x[:, start:stop])
        return self.predict(x), x


class FusedFlow(nn.Module):
    """Optical flow: see `FlowNetwork`."""

    def __init__(self, network: FlowNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        for conv in (layer for layer in network.modules() if isinstance(layer, nn.Conv2d)):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
        stem = cast(nn.Conv2d, cast(nn.Sequential, cast(nn.Sequential, network.pyramid[0])[0])[0])
        stem.weight = nn.Parameter(widened_weight(stem.weight, dtype), False)
        self.pyramid = network.pyramid.to(dtype)
        self.decoders = nn.ModuleList(
            FusedDecoder(cast(Decoder, decoder), dtype) for decoder in network.decoders
        )
        self.up_flow, self.up_features = network.up_flow, network.up_features.to(dtype)
        for layer, decoder in zip(self.up_features, self.decoders, strict=False):
            assert isinstance(layer, nn.ConvTranspose2d) and isinstance(decoder, FusedDecoder)
            weight = widen(layer.weight.transpose(0, 1), decoder.channels)
            layer.weight = nn.Parameter(weight.transpose(0, 1).contiguous(), False)
        first, *middle, last = network.refine
        self.refine = nn.Sequential(
            SliceConv2d(cast(nn.Conv2d, cast(nn.Sequential, first)[0]), 0.1, dtype),
            *(layer.to(dtype) for layer in middle),
            SliceConv2d(cast(nn.Conv2d, last), 1.0, dtype, wide_output=True),
        )

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for level in self.pyramid:
            image = level(image)
            maps.append(image)
        return tuple(maps)

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        flow, dense = self.decoders[0](F.leaky_relu(correlation(first[-1], second[-1]), 0.1))
        for step, decoder in enumerate(self.decoders[1:], 1):
            ours, theirs = first[-1 - step], second[-1 - step]
            flow, features = self.up_flow[step - 1](flow), self.up_features[step - 1](dense)
            theirs = bilinear_warp(theirs, flow * (FLOW_UNIT / 2 ** (len(first) - step)))
            matches = F.leaky_relu(correlation(ours, theirs), 0.1)
            flow, dense = decoder(matches, ours, flow, features)
        return flow + self.refine(dense)
