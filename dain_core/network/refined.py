"""DAIN with its flow refined at the intermediate time, and a rectification that sees several scales."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cuda_ext import adaptive_warp, flow_projection
from dain_core.network.model import CONFIGS, ModelConfig, Motion
from dain_core.network.modules.depth import DepthNetwork, depth_of, fold_batch_norm
from dain_core.network.modules.flow import FLOW_UNIT, FlowNetwork
from dain_core.network.modules.layers import FullPrecision, downsample, upsample
from dain_core.network.modules.pyramid import PyramidNetwork, image_pyramid
from dain_core.network.modules.refinement import Refined, RefinementNetwork, sample_both
from dain_core.network.modules.unet import MultiscaleRectification
from dain_core.network.padding import Padding, within_frame


@dataclass(frozen=True)
class RefinedConfig:
    """Every width of the network.

    Attributes:
        base: the widths of flow and depth.
        context: the channels of the feature pyramid's levels, from 1/2 of the frame's size on.
        refine: the widths of the refinement's blocks, likewise.
        residuals: the residual blocks in each of them.
        matched: the first level at which a block matches both frames.
        rectify: the widths of the U-Net's levels, likewise; as many as the pyramid has, or fewer.
    """

    base: ModelConfig = field(default_factory=lambda: CONFIGS["dain-lite"])
    context: tuple[int, ...] = (32, 48, 64, 96, 128)
    refine: tuple[int, ...] = (48, 64, 96, 128, 128)
    residuals: tuple[int, ...] = (2, 3, 3, 4, 4)
    matched: int = 3
    rectify: tuple[int, ...] = (64, 96, 128, 160)

    @property
    def context_multiple(self) -> int:
        """What the sides of a frame are padded to multiples of for all that is refined."""
        return int(2 ** len(self.context))

    @property
    def multiple(self) -> int:
        """What the sides of a frame must be multiples of so that nothing is padded."""
        return math.lcm(self.base.multiple, self.context_multiple)


@dataclass(frozen=True)
class FrameFeatures:
    """What the network knows of single frames, whatever the pair.

    Attributes:
        image: (N, 3, H, W), [0, 1], float32.
        inverse_depth: (N, 1, H, W), float32.
        pyramid: the flow network's feature maps.
        context: the feature maps at 1/2, 1/4, … of the padded size that refinement and rectification see.
    """

    image: Tensor
    inverse_depth: Tensor
    pyramid: tuple[Tensor, ...]
    context: tuple[Tensor, ...]

    def halves(self) -> tuple[FrameFeatures, FrameFeatures]:
        """The features of the first and of the second half of the batch."""
        halves = (
            FrameFeatures(image, depth, tuple(level.chunk(2)[half] for level in self.pyramid),
                          tuple(level.chunk(2)[half] for level in self.context))
            for half, (image, depth) in enumerate(
                zip(self.image.chunk(2), self.inverse_depth.chunk(2), strict=True)
            )
        )  # fmt: skip
        first, second = halves
        return first, second


@dataclass(frozen=True)
class RefinedSynthesis:
    """The frame between, and what it was made of.

    Attributes:
        output: (N, 3, H, W), float32, not clipped.
        blend: the same before rectification.
        flows: from the frame between to both frames, (N, 4, H, W).
        share: of the first frame in each pixel of the blend, (N, 1, H, W).
        images: the first and the second frame, warped, (N, 3, H, W).
        steps: what was known after each block of the refinement, the last at full (padded) size.
    """

    output: Tensor
    blend: Tensor
    flows: Tensor
    share: Tensor
    images: tuple[Tensor, Tensor]
    steps: list[Refined]


class RefinedDAIN(nn.Module):
    """The network: DAIN's flow, depth and projection, then flow, mask and kernels refined at the intermediate time."""

    def __init__(self, config: RefinedConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RefinedConfig()
        base = config.base
        self.flow = FlowNetwork(base.flow_pyramid, base.flow_dense, base.flow_dense_fine, base.flow_refine)
        self.depth = DepthNetwork(base.depth_stem, base.depth_widths, base.depth_narrow, base.depth_wide)
        self.context = PyramidNetwork(config.context)
        self.refine = RefinementNetwork(config.context, config.refine, config.residuals, config.matched)
        # At 1/2 of the size: four pixels each of the blend, both warped images and the logit; and the last block's
        # features.
        seen = 4 * (3 + 3 + 3 + 1) + config.refine[0]
        contexts = [2 * width for width in config.context[: len(config.rectify)]]
        self.rectify = MultiscaleRectification(seen, contexts, config.rectify)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the networks run in: autocast's where that is on, else the weights'."""
        weight = self.context.levels[0][0][0].weight  # type: ignore[index]
        if torch.is_autocast_enabled(weight.device.type):
            return torch.get_autocast_dtype(weight.device.type)
        dtype: torch.dtype = weight.dtype
        return dtype

    def prepare(self, dtype: torch.dtype) -> RefinedDAIN:
        """Make it fit for inference only: BatchNorm folded, weights in `dtype` except the sensitive ones, and
        in the channels-last layout, which is the faster one on CPUs and GPUs."""
        self.eval().requires_grad_(False)
        self.prepare_front(dtype)
        for part in (self.context, self.refine, self.rectify):
            _cast(part, dtype)
        return self

    def prepare_front(self, dtype: torch.dtype) -> None:
        """Likewise for flow and depth alone, which stay as they are while all else trains."""
        fold_batch_norm(self.depth)
        _cast(self.flow, dtype)
        _cast(self.depth, dtype)

    def features(self, image: Tensor) -> FrameFeatures:
        """What is known of single frames (N, 3, H, W) in [0, 1], of any size."""
        source = image.to(self.dtype)
        log_depth = self.log_depth(image)
        halved = Padding.of(image, self.config.base.flow_multiple).add(source)
        return FrameFeatures(
            image=image,
            inverse_depth=1e-6 + torch.exp(-log_depth),
            pyramid=self.flow.features(downsample(halved, self.config.base.flow_scale)),
            context=self.contexts(image),
        )

    def log_depth(self, image: Tensor) -> Tensor:
        """The log depth of images (N, 3, H, W): (N, 1, H, W), float32."""
        return depth_of(self.depth, image.to(self.dtype), self.config.base.depth_scale)

    def contexts(self, image: Tensor) -> tuple[Tensor, ...]:
        """`FrameFeatures.context` of images, alone."""
        maps: tuple[Tensor, ...] = self.context(self._padding(image).add(image.to(self.dtype)))
        return maps

    def motion(self, first: FrameFeatures, second: FrameFeatures) -> Motion:
        """The flow of a pair, whatever the time between. Kernels depend on the time: there are none yet."""
        there = [torch.cat(levels) for levels in zip(first.pyramid, second.pyramid, strict=True)]
        back = [torch.cat(levels) for levels in zip(second.pyramid, first.pyramid, strict=True)]
        scale = self.config.base.flow_scale
        finest = FLOW_UNIT * scale * self.flow(there, back)[-1]
        padding = Padding.of(first.image, self.config.base.flow_multiple)
        forward, backward = padding.remove(upsample(finest, 4 * scale)).chunk(2)
        return Motion((forward, backward), ())

    def projected(
        self, first: FrameFeatures, second: FrameFeatures, motion: Motion, time: float | Tensor
    ) -> Tensor:
        """The depth-aware projection: flow from the frame at `time` to both frames, (N, 4, H, W).

        It has no gradient: with its holes filled the projection has none, and flow and depth do not learn from here on.
        """
        forward, backward = (flow.detach() for flow in motion.flows)
        to_first = flow_projection(time * forward, first.inverse_depth.detach(), True)
        to_second = flow_projection((1 - time) * backward, second.inverse_depth.detach(), True)
        return torch.cat((within_frame(to_first), within_frame(to_second)), 1)

    def synthesise(
        self, first: FrameFeatures, second: FrameFeatures, motion: Motion, time: float | Tensor
    ) -> RefinedSynthesis:
        """The frame at `time`, a number or (N, 1, 1, 1), between the first (0) and the second (1)."""
        image = first.image
        n = image.shape[0]
        moment = torch.as_tensor(time, dtype=torch.float32, device=image.device).reshape(-1, 1, 1, 1)
        return self.refined(
            first, second, self.projected(first, second, motion, time), moment.expand(n, 1, 1, 1)
        )

    def refined(
        self, first: FrameFeatures, second: FrameFeatures, projected: Tensor, time: Tensor
    ) -> RefinedSynthesis:
        """What follows the projection; `time` is (N, 1, 1, 1)."""
        padding = self._padding(first.image)
        images = (padding.add(first.image), padding.add(second.image))
        steps, kernels, x = self.refine(images, (first.context, second.context), padding.add(projected), time)
        flows, share = steps[-1].flows, steps[-1].logit.sigmoid()
        warped = [
            adaptive_warp(image, within_frame(flow), kernel)
            for image, flow, kernel in zip(images, flows.split(2, 1), kernels, strict=True)
        ]
        blend = share * warped[0] + (1 - share) * warped[1]

        pixels = torch.cat((blend, *warped, steps[-1].logit), 1)
        seen = torch.cat((nn.functional.pixel_unshuffle(pixels, 2).to(x.dtype), x), 1)
        levels = len(self.config.rectify)
        scaled = image_pyramid(flows.detach(), levels)
        contexts = [
            sample_both(one, two, scaled[level], 2**level)
            for level, one, two in zip(range(1, levels + 1), first.context, second.context, strict=False)
        ]
        output = blend + self.rectify(seen, contexts)
        return RefinedSynthesis(
            output=padding.remove(output),
            blend=padding.remove(blend),
            flows=padding.remove(flows),
            share=padding.remove(share),
            images=(padding.remove(warped[0]), padding.remove(warped[1])),
            steps=steps,
        )

    def forward(self, first: Tensor, second: Tensor, time: float | Tensor = 0.5) -> RefinedSynthesis:
        """The frame at `time` between two frames (N, 3, H, W)."""
        one, two = self.features(torch.cat((first, second))).halves()
        return self.synthesise(one, two, self.motion(one, two), time)

    def _padding(self, image: Tensor) -> Padding:
        return Padding.of(image, self.config.context_multiple)


def _cast(network: nn.Module, dtype: torch.dtype) -> None:
    for module in network.modules():
        if not isinstance(module, FullPrecision) and not list(module.children()):
            module.to(dtype)
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
