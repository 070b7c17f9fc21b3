"""Refines flow, mask and kernels at the intermediate time from coarse to fine. The first guess is the projected flow.

RIFE estimates flow at the intermediate time (Huang et al., ECCV 2022), and AMT matches both frames there (Li et al.,
CVPR 2023). This network does both, and starts from DAIN's depth-aware flow projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cuda_ext
from cuda_ext import correlation
from dain_core.network.modules.flow import CORRELATION_CHANNELS
from dain_core.network.modules.kernels import CENTRE, TAPS
from dain_core.network.modules.layers import FullPrecisionConv2d, SlackConv2d, upsample
from dain_core.network.modules.pyramid import image_pyramid, leaky_conv

#: The number of channels of the flows to both frames and of the mask's logit.
_MOTION = 5
#: The number of channels that a block hands on to the next finer block.
_HIDDEN = 32


@dataclass(frozen=True)
class Refined:
    """The estimate at the intermediate time after a block.

    Attributes:
        flows: the flow to the first and to the second frame, (N, 4, h, w), in pixels of the full-size frame, float32.
        logit: the logit of the mask, (N, 1, h, w), float32. Its sigmoid is the share of the first frame in a pixel.
    """

    flows: Tensor
    logit: Tensor


@dataclass(frozen=True)
class Coarse:
    """What the finest block goes on with.

    Attributes:
        images: both frames, (N, 3, H, W), float32.
        maps: the features of both frames at 1/2 of the size.
        flows, halved: the first guess of the flow, (N, 4, H, W), and the same at 1/2 of the size, in pixels of the
            full-size frame.
        added: what the blocks have added to flows and logit, (N, 5, H/2, W/2).
        x: the features of the block before, at 1/4 of the size.
        time: (N, 1, 1, 1).
    """

    images: tuple[Tensor, Tensor]
    maps: tuple[Tensor, Tensor]
    flows: Tensor
    halved: Tensor
    added: Tensor
    x: Tensor
    time: Tensor

    def guess(self) -> Tensor:
        """Return the flow that the finest block refines, (N, 4, H, W), in pixels."""
        return self.flows + upsample(self.added[:, :4], 2)

    def rows(self, top: int, bottom: int) -> Coarse:
        """Return the part from row `top` of the frame up to `bottom`, both multiples of 4."""

        def cut(tensor: Tensor, scale: int) -> Tensor:
            return tensor[:, :, top // scale : bottom // scale]

        (first, second), (one, two) = self.images, self.maps
        return Coarse(
            (cut(first, 1), cut(second, 1)), (cut(one, 2), cut(two, 2)), cut(self.flows, 1), cut(self.halved, 2),
            cut(self.added, 2), cut(self.x, 4), self.time,
        )  # fmt: skip


def sample(image: Tensor, flow: Tensor, scale: float = 1.0) -> Tensor:
    """Sample `image` bilinearly at every pixel plus its flow. Outside the image, its nearest border pixel counts.

    Args:
        image: (N, C, H, W), of any floating dtype.
        flow: (N, 2, H, W), float32.
        scale: a factor for `flow`, so that `scale` * `flow` is in pixels of `image`.

    Returns:
        (N, C, H, W) in the dtype of `image`. Coordinates are float32 in any case.
    """
    if not (torch.is_grad_enabled() and flow.requires_grad):
        return cuda_ext.sample(image, flow, scale)
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype) + scale * flow[:, 0]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + scale * flow[:, 1]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    with torch.autocast(flow.device.type, enabled=False):
        made = F.grid_sample(image.to(flow.dtype), grid, padding_mode="border", align_corners=False)
    return made.to(image.dtype)


def sample_both(first: Tensor, second: Tensor, flows: Tensor, scale: int) -> Tensor:
    """Sample the maps of both frames by the flows to them.

    Args:
        first, second: the maps, (N, C, h, w).
        flows: (N, 4, h, w), in pixels of the full-size frame.
        scale: the size of the full-size frame relative to the maps.

    Returns:
        The sampled first and second map, (N, 2C, h, w).
    """
    pairs = zip((first, second), flows.split(2, 1), strict=True)
    return torch.cat([sample(image, flow, 1 / scale) for image, flow in pairs], 1)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the channels of maps, (N, any, h, w) of one dtype, as the input of a `SlackConv2d`, channels-last."""
    # Tensor cores multiply 16 channels at once. Zeros fill them up, or cuDNN would pad them for every convolution.
    spare = 0 if torch.onnx.is_in_onnx_export() else -sum(part.shape[1] for part in parts) % 16
    first = parts[0]
    zeros = first.new_zeros((len(first), spare, *first.shape[2:]))
    # Maps of one layout are joined in one pass.
    laid_out = [part.contiguous(memory_format=torch.channels_last) for part in (*parts, zeros)]
    return torch.cat(laid_out, 1).contiguous(memory_format=torch.channels_last)


class Residual(nn.Module):
    """leaky_relu(x + conv2(leaky_relu(conv1(x)))), with 3x3 convolutions of `width` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = leaky_conv(width, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.conv2.weight, a=0.1)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.conv2(self.conv1(x)), 0.1)


def _silent(in_channels: int, out_channels: int) -> FullPrecisionConv2d:
    """Make a 3x3 convolution that stays float32, as flow needs it, and whose output is zero until it is trained."""
    conv = FullPrecisionConv2d(in_channels, out_channels, 3, padding=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class _KernelHead(FullPrecisionConv2d):
    """Computes the 4x4 kernels of both frames from features (N, C, h, w).

    Untrained kernels sample bilinearly. Each quadrant of a kernel sums to 1, so that no pixel changes its brightness.
    To achieve it, the mean of a quadrant's four taps is subtracted from the weights, which costs nothing for a pixel.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 4 * 2 * TAPS, 3, padding=1)
        nn.init.zeros_(self.weight)
        taps = torch.zeros(2, TAPS, 4)
        taps[:, list(CENTRE)] = 1
        self.bias = nn.Parameter(taps.flatten())

    def of_frame(self, input: Tensor, frame: int) -> Tensor:
        """Return the kernels of one frame, 0 or 1: (N, 16, 2h, 2w), float32. Those of both would be very large."""
        assert self.bias is not None
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = (self._centred(value).chunk(2)[frame] for value in (self.weight, self.bias))
            made = self._conv_forward(input.to(weight.dtype), weight, bias + 1 / 4)
        return F.pixel_shuffle(made, 2)

    def _centred(self, value: Tensor) -> Tensor:
        # The dimensions are: frame; half of the rows, row in it; half of the columns, column in it; the four pixels
        # that pixel_shuffle makes of one pixel.
        quadrants = value.view(2, 2, 2, 2, 2, 4, *value.shape[1:])
        return (quadrants - quadrants.mean((2, 4), keepdim=True)).view_as(value)


class _Block(nn.Module):
    """Computes the changes of flows and logit at twice the size of its input, and features for the next finer block.

    Args:
        seen: the input channels.
        width: the channels of the features.
        residuals: the number of residual blocks.
        hands_on: whether there is a finer block.
    """

    def __init__(self, seen: int, width: int, residuals: int, hands_on: bool) -> None:
        super().__init__()
        self.stem = leaky_conv(seen, width, SlackConv2d)
        self.trunk = nn.Sequential(*(Residual(width) for _ in range(residuals)))
        self.head = _silent(width, 4 * _MOTION)
        self.hand_on = nn.Conv2d(width, _HIDDEN, 1) if hands_on else None

    def handed_on(self, x: Tensor) -> Tensor:
        """Return the channels that the next finer block sees, from this block's features `x`."""
        assert self.hand_on is not None
        handed: Tensor = self.hand_on(x)
        return handed

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the changes, (N, 5, 2h, 2w), and the features that give them, (N, `width`, h, w)."""
        x = self.trunk(self.stem(seen))
        return F.pixel_shuffle(self.head(x), 2), x


def _prior(time: Tensor) -> Tensor:
    """Return the logit of the mask before any block: that of the nearness in time."""
    return ((1 - time) / time).log()


class RefinementNetwork(nn.Module):
    """Blocks from the coarsest level of the feature pyramid to the finest.

    Each block sees both frames, which the flow so far warps to the intermediate time. It computes the changes of both
    flows and of the logit of the mask. An untrained block changes nothing. Lists are in the order of the pyramid, from
    1/2 of the frame's size on.

    Args:
        features: the channels of the levels of the pyramid.
        widths: the widths of the blocks.
        residuals: the number of residual blocks in each block.
        matched: the finest level, counted from 1, whose block also sees the correlation of the two warped feature maps.
            Coarser blocks see it too.
        kernels: whether the last block makes kernels.
    """

    def __init__(
        self,
        features: Sequence[int],
        widths: Sequence[int],
        residuals: Sequence[int],
        matched: int,
        kernels: bool = True,
    ) -> None:
        super().__init__()
        self.matched = matched
        levels = range(1, len(features) + 1)
        self.blocks = nn.ModuleList()  # from fine to coarse, as the pyramid
        for level, channels, width, count in zip(levels, features, widths, residuals, strict=True):
            images = 24 if level == 1 else 6  # the finest block sees the full size, four pixels as one
            handed = _HIDDEN if level < len(features) else 0
            matches = CORRELATION_CHANNELS if level >= matched else 0
            sees = 2 * channels + images + _MOTION + 1 + handed + matches
            self.blocks.append(_Block(sees, width, count, hands_on=level > 1))
        self.kernels = _KernelHead(widths[0]) if kernels else None

    def forward(
        self,
        images: tuple[Tensor, Tensor],
        features: tuple[Sequence[Tensor], Sequence[Tensor]],
        flows: Tensor,
        time: Tensor,
    ) -> tuple[list[Refined], Tensor]:
        """Refine `flows` at `time`, by all blocks. The arguments are those of `coarse`.

        Returns:
            The estimate after each block, the last one at full size; and the features of the last block, at 1/2 of the
            size, of which `kernels` makes the kernels of a frame.
        """
        results, coarse = self.coarse(images, features, flows, time)
        finest, x = self.finest(coarse)
        return [*results, finest], x

    def coarse(
        self,
        images: tuple[Tensor, Tensor],
        features: tuple[Sequence[Tensor], Sequence[Tensor]],
        flows: Tensor,
        time: Tensor,
    ) -> tuple[list[Refined], Coarse]:
        """Refine `flows` at `time`, by all blocks but the finest.

        Args:
            images: both frames, (N, 3, H, W), float32. H and W are multiples of 2 to the power of the number of levels.
            features: the feature pyramids of both frames, from 1/2 of the size on.
            flows: the flow from the intermediate frame to both frames, (N, 4, H, W), in pixels, float32.
            time: (N, 1, 1, 1), float32, in (0, 1).

        Returns:
            The estimate after each of these blocks, and what the finest one goes on with.
        """
        levels = len(self.blocks)
        pixels = [image_pyramid(image, levels) for image in images]
        base = image_pyramid(flows, levels)
        added = base[levels].new_zeros((len(flows), _MOTION, *base[levels].shape[2:]))
        x = base[levels].new_zeros(())  # no block hands anything on to the coarsest block
        results = []
        for level in range(levels, 1, -1):
            maps = features[0][level - 1], features[1][level - 1]
            with torch.no_grad():
                flow = base[level] + added[:, :4]
                warped = sample_both(pixels[0][level], pixels[1][level], flow, 2**level)
            known = self._known(level, warped, flow, added, time)
            added, x = self._block(level, self._seen(level, maps, known, x), added)
            results.append(Refined(base[level - 1] + added[:, :4], _prior(time) + added[:, 4:]))
        return results, Coarse(images, (features[0][0], features[1][0]), base[0], base[1], added, x, time)

    def finest(self, coarse: Coarse) -> tuple[Refined, Tensor]:
        """Refine by the finest block what `coarse` has come to: return the estimate, and the features of the block.

        The block sees the full size, four pixels as one.
        """
        guess = coarse.guess()
        with torch.no_grad():
            warped = F.pixel_unshuffle(sample_both(*coarse.images, guess, 1), 2)
            flow = coarse.halved + coarse.added[:, :4]
            known = self._known(1, warped, flow, coarse.added, coarse.time)
        # Maps of the full size are large: each is passed over as seldom as can be.
        more, x = self.blocks[0](self._seen(1, coarse.maps, known, coarse.x))
        logit = _prior(coarse.time) + upsample(coarse.added[:, 4:], 2) + more[:, 4:]
        return Refined(guess + more[:, :4], logit), x

    def _block(self, level: int, seen: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to flows and logit after the block of `level`, and the features of the block."""
        more, x = self.blocks[level - 1](seen)
        flow, logit = more.split((4, 1), 1)
        return upsample(added, 2) + torch.cat((2**level / 2 * flow, logit), 1), x

    @staticmethod
    @torch.no_grad()
    def _known(level: int, warped: Tensor, flows: Tensor, added: Tensor, time: Tensor) -> Tensor:
        """Return what is known before the block of `level`: both warped frames, flows, logit and time, float32."""
        return torch.cat((warped, flows / 2**level, added[:, 4:], time.expand_as(added[:, 4:])), 1)

    def _seen(self, level: int, maps: tuple[Tensor, Tensor], known: Tensor, x: Tensor) -> Tensor:
        """Return the input of the block of `level`, channels-last.

        Args:
            level: 1 for 1/2 of the frame's size, 2 for 1/4, …
            maps: the features of both frames.
            known: the result of `_known`.
            x: the features of the next coarser block.
        """
        flows = known[:, -_MOTION - 1 : -2]
        warped = sample_both(*maps, flows, 1)
        seen = [warped, known.to(warped.dtype)]
        if level >= self.matched:
            one, two = (part.contiguous(memory_format=torch.channels_last) for part in warped.chunk(2, 1))
            seen.append(F.leaky_relu(correlation(one, two), 0.1))
        if level < len(self.blocks):
            seen.append(upsample(cast(_Block, self.blocks[level]).handed_on(x), 2))
        return joined(seen)
