"""Optical flow: PWC-Net (Sun et al., CVPR 2018) with dense connections and a dilated context network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import correlation
from dain_core.network.modules.layers import (
    FullPrecisionConv2d,
    FullPrecisionConvTranspose2d,
    SlackConv2d,
    SlackConvTranspose2d,
    aligned,
)

#: The network predicts flow in units of 20 pixels of the full-size frame.
FLOW_UNIT = 20.0

#: The levels of the flow in the paper: level L has 1/2^L of the frame's size.
FLOW_LEVELS = range(6, 1, -1)
_COARSEST, _FINEST = FLOW_LEVELS[0], FLOW_LEVELS[-1]
#: The channels of `cuda_ext.correlation`, one for each displacement.
CORRELATION_CHANNELS = 81
_REFINE_DILATIONS = (1, 2, 4, 8, 16, 1)


def _conv(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        SlackConv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation),
        nn.LeakyReLU(0.1, inplace=True),
    )


def bilinear_warp(features: Tensor, flow: Tensor) -> Tensor:
    """Sample `features` bilinearly at each pixel plus its flow. The result is 0 where that is outside the map.

    Args:
        features: (N, C, H, W).
        flow: (N, 2, H, W), float32, in pixels of `features`.

    Returns:
        (N, C, H, W) in the dtype of `features`.
    """
    _, _, h, w = features.shape
    x = torch.arange(w, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    y = torch.arange(h, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    grid = torch.stack((2 * x / max(w - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1), -1)
    source = features.to(flow.dtype)
    sampled = F.grid_sample(source, grid, align_corners=True)
    coverage = F.grid_sample(torch.ones_like(source[:, :1]), grid, align_corners=True)
    return (sampled * (coverage >= 0.9999)).to(features.dtype)


class Decoder(nn.Module):
    """A level of the flow: densely connected convolutions, and a convolution that predicts the flow.

    Args:
        in_channels: the input channels.
        widths: the output channels of the densely connected convolutions.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.dense = nn.ModuleList()
        self.channels = in_channels
        for width in widths:
            self.dense.append(_conv(self.channels, width))
            self.channels += width
        self.predict = FullPrecisionConv2d(self.channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow of this level in float32, and the features that predict it; see `aligned`."""
        x = aligned(x)
        for conv in self.dense:
            x = torch.cat((conv(x), x), 1)
        return self.predict(x), x


class FlowNetwork(nn.Module):
    """Estimates the flow between two frames, at a quarter of their size, or less.

    Args:
        pyramid: the widths of the six levels of features, from 1/2 to 1/64 of the frame's size.
        dense: the widths of the densely connected convolutions of every level except the finest one.
        dense_fine: the widths of the densely connected convolutions of the finest level.
        refine: the widths of the dilated context network at the finest level.
        finest: the finest level that is estimated: L has 1/2^L of the size. Above 2, there are neither the finest level
            nor the context network.
    """

    def __init__(
        self,
        pyramid: Sequence[int],
        dense: Sequence[int],
        dense_fine: Sequence[int],
        refine: Sequence[int],
        finest: int = _FINEST,
    ) -> None:
        super().__init__()
        self.levels = range(_COARSEST, finest - 1, -1)
        sizes = zip((3, *pyramid), pyramid, strict=False)
        self.pyramid = nn.ModuleList(
            nn.Sequential(_conv(before, width, stride=2), _conv(width, width), _conv(width, width))
            for before, width in sizes
        )
        # Every level except the coarsest also sees its own features, and the flow and features of the coarser level.
        decoders = [Decoder(CORRELATION_CHANNELS, dense)]
        for level in self.levels[1:]:
            widths = dense_fine if level == _FINEST else dense
            decoders.append(Decoder(CORRELATION_CHANNELS + pyramid[level - 1] + 4, widths))
        self.decoders = nn.ModuleList(decoders)
        # The last layer is part of the official checkpoint, but nothing uses it.
        self.up_flow = nn.ModuleList(
            FullPrecisionConvTranspose2d(2, 2, 4, stride=2, padding=1) for _ in decoders
        )
        self.up_features = nn.ModuleList(
            SlackConvTranspose2d(decoder.channels, 2, 4, stride=2, padding=1) for decoder in decoders[:-1]
        )
        self.refine = nn.Sequential()
        if finest > _FINEST:
            return
        inputs = (decoders[-1].channels, *refine)
        self.refine = nn.Sequential(
            *(
                _conv(before, width, dilation=dilation)
                for before, width, dilation in zip(inputs, refine, _REFINE_DILATIONS, strict=False)
            ),
            FullPrecisionConv2d(refine[-1], 2, 3, padding=1),
        )

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature pyramid of images (N, 3, H, W), from 1/2 to 1/64 of their size.

        H and W are multiples of 64. The features of a frame do not depend on the pair.
        """
        maps = []
        image = aligned(image)
        for level in self.pyramid:
            image = level(image)
            maps.append(image)
        return tuple(maps)

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """Return the flow from the first frame to the second, by level.

        Args:
            first, second: the feature pyramids of both frames.

        Returns:
            (N, 2, H/2^L, W/2^L) for the levels L = 6, 5, 4, 3, 2, or up to the finest, in units of 20 pixels, float32.
        """
        flows: list[Tensor] = []
        dense = first[-1]
        for step, (level, decoder) in enumerate(zip(self.levels, self.decoders, strict=True)):
            ours, theirs = first[level - 1], second[level - 1]
            if step == 0:
                x = F.leaky_relu(correlation(ours, theirs), 0.1)
            else:
                flow = self.up_flow[step - 1](flows[-1])
                features = self.up_features[step - 1](dense)
                theirs = bilinear_warp(theirs, flow * (FLOW_UNIT / 2**level))
                matches = F.leaky_relu(correlation(ours, theirs), 0.1)
                x = torch.cat((matches, ours, flow.to(ours.dtype), features), 1)
            flow, dense = decoder(x)
            flows.append(flow)
        if len(self.refine):
            flows[-1] = flows[-1] + self.refine(dense)
        return flows

    def both_ways(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """Return the flow from the first frame to the second, then, further on in the batch, back.

        Args:
            first, second: the feature pyramids of N first and of N second frames.

        Returns:
            The result of `forward` for 2N pairs.
        """
        if first[0].device.type == "cpu":  # one after the other takes no longer there, and half of the memory
            there, back = self(first, second), self(second, first)
            return [torch.cat(levels) for levels in zip(there, back, strict=True)]
        ours = [torch.cat(levels) for levels in zip(first, second, strict=True)]
        theirs = [torch.cat(levels) for levels in zip(second, first, strict=True)]
        levels: list[Tensor] = self(ours, theirs)
        return levels
