"""The network as a GPU runs it fastest: inference in half precision, equal to `DAIN` up to rounding.

Nothing is concatenated: layers and warps write into slices of the channels of the tensor that the next layer reads.
Bias and activation belong to the convolution before them. Narrow convolutions are `cuda_ext.convolve_into`, wide ones
cuDNN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import (
    BLEND_CHANNELS,
    adaptive_warp_into,
    blend_into,
    convolve_into,
    correlation,
    flow_projection,
    pack_weight,
)
from dain_core.model import DAIN, ModelConfig, Motion
from dain_core.modules.context import ContextNetwork
from dain_core.modules.depth import Inception, fold_batch_norm
from dain_core.modules.flow import FLOW_UNIT, Decoder, FlowNetwork, bilinear_warp
from dain_core.modules.kernels import KernelNetwork
from dain_core.modules.layers import ResidualBlock, upsample
from dain_core.modules.synthesis import RectificationNetwork

#: Channels are aligned to this: what a tensor core takes at once.
_GROUP = 16
#: From this width on, cuDNN's convolutions are faster than ours.
_WIDE = 128


def _round_up(channels: int) -> int:
    return -(-channels // _GROUP) * _GROUP


def _widen(x: Tensor, channels: int) -> Tensor:
    """`x` with zeros for channels up to `channels`."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1])) if channels > x.shape[1] else x


def _empty(like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    n, _, h, w = like.shape
    return torch.empty(
        (n, channels, h, w),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


# ---------------------------------------------------------------- convolutions


class SliceConv2d(nn.Module):
    """A convolution with bias and leaky ReLU, from and into slices of channels."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, slope: float, dtype: torch.dtype, wide_output: bool = False) -> None:
        super().__init__()
        self.out_channels, self.slope = conv.out_channels, slope
        self.out_dtype = torch.float32 if wide_output else dtype
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().float()
        self.register_buffer("weight", pack_weight(conv.weight.detach()).to(dtype))
        self.register_buffer("bias", F.pad(bias, (0, -len(bias) % _GROUP)))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if out is None:
            out = _empty(x, self.out_channels, self.out_dtype)
        convolve_into(x, self.weight, self.bias, self.slope, out)
        return out


class WideConv2d(nn.Module):
    """relu(conv(x) + plus), as one kernel of cuDNN."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.padding, self.dilation = cast(tuple[int, int], conv.padding), conv.dilation
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("weight", _prepared(conv.weight, dtype))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if x.is_cuda:
            shape = ((1, 1), self.padding, self.dilation, 1)
            if plus is None:
                return torch.cudnn_convolution_relu(x, self.weight, self.bias, *shape)
            return torch.cudnn_convolution_add_relu(x, self.weight, plus, 1, self.bias, *shape)
        result = F.conv2d(x, self.weight, self.bias, 1, self.padding, self.dilation)
        return F.relu(result if plus is None else result + plus)


def _prepared(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """With its input channels filled up: cuDNN copies the input at every call if they are no multiple of 8."""
    widened = _widen(weight.detach().to(dtype), _round_up(weight.shape[1]))
    return widened.contiguous(memory_format=torch.channels_last)


def _relu_conv(conv: nn.Conv2d, dtype: torch.dtype) -> SliceConv2d | WideConv2d:
    narrow = max(conv.in_channels, conv.out_channels) < _WIDE and conv.dilation == (1, 1)
    return SliceConv2d(conv, 0.0, dtype) if narrow else WideConv2d(conv, dtype)


class FusedResidualBlock(nn.Module):
    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1, self.conv2 = WideConv2d(block.conv1, dtype), WideConv2d(block.conv2, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x), x)


# ---------------------------------------------------------------- networks of single frames


class FusedContext(nn.Module):
    """The features after each of the context network's blocks."""

    def __init__(self, network: ContextNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem = WideConv2d(network.stem, dtype)
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        self.blocks = nn.ModuleList(FusedResidualBlock(block, dtype) for block in blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = [self.stem(image)]
        for block in self.blocks:
            features.append(block(features[-1]))
        return tuple(features)


class FusedInception(nn.Module):
    """All 1x1 convolutions as one; the others read slices of its result and write slices of the block's."""

    def __init__(self, block: Inception, dtype: torch.dtype) -> None:
        super().__init__()
        branches = [
            [layer for layer in branch.children() if isinstance(layer, nn.Conv2d)] for branch in block
        ]
        firsts = [branch[0] for branch in branches]
        merged = nn.Conv2d(firsts[0].in_channels, sum(conv.out_channels for conv in firsts), 1)
        merged.weight.data = torch.cat([conv.weight for conv in firsts])
        merged.bias = nn.Parameter(torch.cat([cast(Tensor, conv.bias) for conv in firsts]))
        self.reduce = WideConv2d(merged, dtype)
        self.convs = nn.ModuleList(SliceConv2d(branch[1], 0.0, dtype) for branch in branches[1:])
        self.width, self.middle = firsts[0].out_channels, firsts[1].out_channels

    def forward(self, x: Tensor) -> Tensor:
        direct, *reduced = self.reduce(x).split([self.width] + [self.middle] * len(self.convs), 1)
        out = _empty(x, self.width * (1 + len(self.convs)))
        slices = out.split(self.width, 1)
        slices[0].copy_(direct)
        for conv, source, target in zip(self.convs, reduced, slices[1:], strict=True):
            conv(source, target)
        return out


class FusedDepth(nn.Module):
    """Log depth (N, 1, H, W), float32."""

    def __init__(self, network: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        fold_batch_norm(network)
        stem, hourglass, head = network[0], network[3], network[4]
        self.stem = WideConv2d(cast(nn.Conv2d, stem), dtype)
        _fuse_inceptions(hourglass, dtype)
        self.hourglass = hourglass
        self.head = SliceConv2d(cast(nn.Conv2d, head), 1.0, dtype, wide_output=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.hourglass(self.stem(image)))


def _fuse_inceptions(module: nn.Module, dtype: torch.dtype) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, Inception):
            setattr(module, name, FusedInception(child, dtype))
        else:
            _fuse_inceptions(child, dtype)


# ---------------------------------------------------------------- networks of pairs


class FusedDecoder(nn.Module):
    """One level of the flow. What `Decoder` concatenates is one tensor, filled from its end to its start."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        convs = [cast(nn.Conv2d, cast(nn.Sequential, layer)[0]) for layer in decoder.dense]
        self.inputs = _round_up(convs[0].in_channels)
        self.channels = self.inputs + sum(conv.out_channels for conv in convs)
        self.dense = nn.ModuleList(SliceConv2d(conv, 0.1, dtype) for conv in convs)
        self.predict = SliceConv2d(decoder.predict, 1.0, dtype, wide_output=True)

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        x = _empty(parts[0], self.channels)
        start = self.channels - self.inputs
        given = torch.cat([part.to(x.dtype) for part in parts], 1)
        x[:, start:].copy_(_widen(given, self.inputs))
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
        stem.weight = nn.Parameter(_prepared(stem.weight, dtype), False)
        self.pyramid = network.pyramid.to(dtype)
        self.decoders = nn.ModuleList(
            FusedDecoder(cast(Decoder, decoder), dtype) for decoder in network.decoders
        )
        self.up_flow, self.up_features = network.up_flow, network.up_features.to(dtype)
        for layer, decoder in zip(self.up_features, self.decoders, strict=False):
            assert isinstance(layer, nn.ConvTranspose2d) and isinstance(decoder, FusedDecoder)
            weight = _widen(layer.weight.transpose(0, 1), decoder.channels)
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


class FusedKernels(nn.Module):
    """Interpolation kernels: see `KernelNetwork`."""

    def __init__(self, network: KernelNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.down = nn.ModuleList(_relu_conv(cast(nn.Conv2d, conv), dtype) for conv in network.down)
        self.up = nn.ModuleList(_relu_conv(cast(nn.Conv2d, conv), dtype) for conv in network.up)
        self.heads = nn.ModuleList(
            nn.Sequential(
                SliceConv2d(cast(nn.Conv2d, head[0]), 0.0, dtype),
                SliceConv2d(cast(nn.Conv2d, head[2]), 1.0, dtype),
            )
            for head in cast(Sequence[nn.Sequential], network.heads)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down[0](images)
        before_pooling = []
        for conv in self.down[1:-1]:
            x = conv(x)
            before_pooling.append(x)
            x = F.max_pool2d(x, 2)
        x = self.down[-1](x)
        for conv, skip in zip(self.up, reversed(before_pooling), strict=True):
            x = conv(upsample(x, 2).add_(skip))
        return self.heads[0](x), self.heads[1](x)


# ---------------------------------------------------------------- synthesis


class FusedRectification(nn.Module):
    """What to add to the blend, float32, seen the warped contexts of both frames and what `blend_into` gathers."""

    stem: Tensor
    #: Rows above and below that the first convolution sees.
    margin = 3

    def __init__(self, network: RectificationNetwork, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("stem", _prepared(_as_gathered(network.stem, config.context_channels), dtype))
        blocks = cast(Sequence[ResidualBlock], network.blocks)
        self.blocks = nn.Sequential(*(FusedResidualBlock(block, dtype) for block in blocks))
        self.head = SliceConv2d(network.head, 1.0, dtype, wide_output=True)


def _as_gathered(stem: nn.Conv2d, context: int) -> Tensor:
    """The first convolution's weight for the channels as they lie in memory: features, then `blend_into`'s.

    A context starts with the image, which is there already once warped: the two weights are added. The bias is the
    weight of the channel of ones: cuDNN's fused 7x7 convolution takes twenty times as long as its plain one.
    """
    rest, one, two = stem.weight.split([stem.in_channels - 2 * context, context, context], 1)
    blend, image_1, image_2, motion = rest.split([3, 3, 3, rest.shape[1] - 9], 1)
    (again_1, features_1, depth_1), (again_2, features_2, depth_2) = (
        part.split([3, context - 4, 1], 1) for part in (one, two)
    )
    bias = torch.zeros_like(depth_1)
    bias[:, 0, bias.shape[2] // 2, bias.shape[3] // 2] = cast(Tensor, stem.bias)
    gathered = torch.cat((blend, image_1 + again_1, image_2 + again_2, motion, depth_1, depth_2, bias), 1)
    return torch.cat((features_1, features_2, _widen(gathered, BLEND_CHANNELS)), 1)


@dataclass(frozen=True)
class FusedFeatures:
    """What is known of a single frame.

    Attributes:
        picture: (N, 4, H, W), channels-last, float32: the image in [0, 1] and the log depth.
        inverse_depth: (N, 1, H, W), float32.
        contexts: the features after each block of the context network.
        pyramid: the flow network's feature maps, from 1/2 to 1/64.
    """

    picture: Tensor
    inverse_depth: Tensor
    contexts: tuple[Tensor, ...]
    pyramid: tuple[Tensor, ...]

    @property
    def image(self) -> Tensor:
        return self.picture[:, :3]


@dataclass(frozen=True)
class FusedSynthesis:
    """The frame between, (N, 3, H, W), float32, not clipped, and the same before rectification."""

    output: Tensor
    blend: Tensor


class FusedDAIN(nn.Module):
    """Made from a `DAIN`, of which it takes the weights and which is of no use afterwards."""

    #: Elements of the rectification's input beyond which it is made in bands: cuDNN counts them in 32 bits.
    band_elements = 2**31 - 1

    def __init__(self, model: DAIN, dtype: torch.dtype) -> None:
        super().__init__()
        model.eval().requires_grad_(False)
        self.config, self.dtype = model.config, dtype
        self.depth = FusedDepth(model.depth, dtype)
        self.context = FusedContext(model.context, dtype)
        self.flow = FusedFlow(model.flow, dtype)
        self.kernels = FusedKernels(model.kernels, dtype)
        self.rectify = FusedRectification(model.rectify, model.config, dtype)
        self.eval().requires_grad_(False)

    @staticmethod
    def supports(config: ModelConfig, device: torch.device) -> bool:
        """Whether this network's widths suit the tensor cores, and the GPU has such (compute capability 8.0)."""
        widths = (*config.flow_dense, config.context_width, config.rectify_width, *config.kernel_widths)
        middles = (config.depth_narrow, config.depth_wide, 4 * config.depth_widths[0], config.flow_refine[-1])
        if any(width % _GROUP for width in (*widths, *middles)) or config.flow_scale * config.depth_scale > 1:
            return False
        return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)

    def features(self, image: Tensor) -> FusedFeatures:
        """See `DAIN.features`."""
        half = image.to(dtype=self.dtype, memory_format=torch.channels_last)
        source = _widen(half, _GROUP)
        log_depth = self.depth(source)
        return FusedFeatures(
            picture=torch.cat((image, log_depth), 1).contiguous(memory_format=torch.channels_last),
            inverse_depth=1e-6 + torch.exp(-log_depth),
            contexts=self.context(source),
            pyramid=self.flow.features(source),
        )

    def motion(self, first: FusedFeatures, second: FusedFeatures) -> Motion:
        """See `DAIN.motion`."""
        there = [torch.cat(levels) for levels in zip(first.pyramid, second.pyramid, strict=True)]
        back = [torch.cat(levels) for levels in zip(second.pyramid, first.pyramid, strict=True)]
        forward, backward = upsample((FLOW_UNIT * self.flow(there, back)).contiguous(), 4).chunk(2)
        images = torch.cat((first.image, second.image), 1)
        images = images.to(dtype=self.dtype, memory_format=torch.channels_last)
        return Motion((forward, backward), self.kernels(_widen(images, _GROUP)))

    def synthesise(
        self, first: FusedFeatures, second: FusedFeatures, motion: Motion, time: Tensor
    ) -> FusedSynthesis:
        """The frame at `time`, one float32 on the device, between the first (0) and the second (1)."""
        forward, backward = motion.flows
        flows = (
            flow_projection(time * forward, first.inverse_depth, True),
            flow_projection((1 - time) * backward, second.inverse_depth, True),
        )
        blend = _empty(first.picture, 3)
        x = self._stem((first, second), flows, motion.kernels, time, blend)
        return FusedSynthesis(output=blend + self.rectify.head(self.rectify.blocks(x)), blend=blend)

    def _stem(
        self,
        frames: tuple[FusedFeatures, FusedFeatures],
        flows: tuple[Tensor, Tensor],
        kernels: tuple[Tensor, Tensor],
        time: Tensor,
        blend: Tensor,
    ) -> Tensor:
        """The rectification's first convolution, band by band if its input is too large for one tensor."""
        n, _, height, width = blend.shape
        margin = self.rectify.margin
        channels = self.rectify.stem.shape[1]
        rows = min(height, self.band_elements // (n * channels * width) - 2 * margin)
        bands = []
        for start in range(0, height, rows):
            top, count = start - margin, min(rows, height - start) + 2 * margin
            seen = torch.empty(
                (n, channels, count, width),
                dtype=self.dtype,
                device=blend.device,
                memory_format=torch.channels_last,
            )
            slices = list(seen[:, :-BLEND_CHANNELS].split(self.config.context_width, 1))
            for frame, flow, kernel in zip(frames, flows, kernels, strict=True):
                for context in frame.contexts:
                    adaptive_warp_into(context, flow, kernel, top, slices.pop(0))
            pictures = (frames[0].picture, frames[1].picture)
            blend_into(pictures, flows, kernels, time, top, blend, seen[:, -BLEND_CHANNELS:])
            bands.append(F.conv2d(seen, self.rectify.stem, padding=(0, margin)).relu_())
        return bands[0] if len(bands) == 1 else torch.cat(bands, 2)
