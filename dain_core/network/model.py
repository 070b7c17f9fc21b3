"""Depth-Aware Video Frame Interpolation (Bao et al., CVPR 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cuda_ext import adaptive_warp, flow_projection
from dain_core.network.keys import official_key
from dain_core.network.modules.context import ContextNetwork
from dain_core.network.modules.depth import DEPTH_MULTIPLE, DepthNetwork, depth_of, fold_batch_norm
from dain_core.network.modules.flow import FLOW_UNIT, FlowNetwork
from dain_core.network.modules.kernels import TAPS, KernelNetwork
from dain_core.network.modules.layers import FullPrecision, downsample, upsample
from dain_core.network.modules.synthesis import RectificationNetwork
from dain_core.network.padding import Padding, within_frame


@dataclass(frozen=True)
class ModelConfig:
    """Every width of the network; the defaults are the official ones.

    `flow_dense` are those of the flow's coarse levels, `flow_dense_fine` of the finest, which takes most of its time.
    `flow_scale` and `depth_scale` say by how much a frame is shrunk before its flow or depth is estimated.
    """

    flow_pyramid: tuple[int, ...] = (16, 32, 64, 96, 128, 196)
    flow_dense: tuple[int, ...] = (128, 128, 96, 64, 32)
    flow_dense_fine: tuple[int, ...] = (128, 128, 96, 64, 32)
    flow_refine: tuple[int, ...] = (128, 128, 128, 96, 64, 32)
    flow_scale: int = 1
    depth_stem: int = 128
    depth_widths: tuple[int, int, int] = (16, 32, 64)
    depth_narrow: int = 32
    depth_wide: int = 64
    depth_scale: int = 1
    context_width: int = 64
    kernel_widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    rectify_kernel: int = 7
    rectify_width: int = 128
    rectify_blocks: int = 3

    @staticmethod
    def named(name: str) -> ModelConfig:
        """The configuration called `name`; ValueError lists the names if there is none."""
        if name not in CONFIGS:
            raise ValueError(f"no model is called {name!r}: choose one of {', '.join(CONFIGS)}")
        return CONFIGS[name]

    @property
    def flow_multiple(self) -> int:
        """What the sides of a frame are padded to multiples of for its flow, which halves them six times."""
        return 2 ** len(self.flow_pyramid) * self.flow_scale

    @property
    def depth_multiple(self) -> int:
        """Likewise for its depth, which halves them four times."""
        return DEPTH_MULTIPLE * self.depth_scale

    @property
    def kernel_multiple(self) -> int:
        """Likewise for its kernels, which halve them five times."""
        return 2 ** (len(self.kernel_widths) - 1)

    @property
    def multiple(self) -> int:
        """What the sides of a frame must be multiples of so that nothing is padded."""
        return math.lcm(self.flow_multiple, self.depth_multiple, self.kernel_multiple)

    @property
    def context_channels(self) -> int:
        """The image, three blocks of features, and the log depth."""
        return 3 + 3 * self.context_width + 1

    @property
    def rectify_channels(self) -> int:
        """The blend, and of both frames: warped image, flow, kernel and warped context."""
        return 3 + 2 * (3 + 2 + TAPS + self.context_channels)


CONFIGS: Mapping[str, ModelConfig] = {
    "dain": ModelConfig(),
    # A twentieth of the work: the flow's fine level, the rectification and the kernels are narrower, and depth, which
    # only weighs what meets at a pixel, is looked at from afar. The flow's coarse levels are whole: they take little.
    "dain-lite": ModelConfig(
        flow_dense_fine=(48, 48, 32, 32, 16),
        flow_refine=(48, 48, 48, 32, 32, 16),
        depth_stem=32,
        depth_widths=(16, 16, 16),
        depth_narrow=16,
        depth_wide=16,
        depth_scale=4,
        context_width=16,
        kernel_widths=(16, 16, 32, 64, 64, 64),
        rectify_kernel=3,
        rectify_width=32,
        rectify_blocks=2,
    ),
}


@dataclass(frozen=True)
class Features:
    """What the network knows of single frames, whatever the pair.

    Attributes:
        image: (N, 3, H, W), [0, 1], float32.
        inverse_depth: (N, 1, H, W), float32.
        context: (N, `ModelConfig.context_channels`, H, W): features and, last, the log depth.
        pyramid: the flow network's feature maps, from 1/2 to 1/64 of the frame's padded size.
    """

    image: Tensor
    inverse_depth: Tensor
    context: Tensor
    pyramid: tuple[Tensor, ...]

    def halves(self) -> tuple[Features, Features]:
        """The features of the first and of the second half of the batch."""
        images, depths, contexts = (x.chunk(2) for x in (self.image, self.inverse_depth, self.context))
        pyramids = zip(*(level.chunk(2) for level in self.pyramid), strict=True)
        first, second = (Features(*parts) for parts in zip(images, depths, contexts, pyramids, strict=True))
        return first, second


@dataclass(frozen=True)
class Motion:
    """What the network knows of a pair of frames, whatever the time between them.

    Attributes:
        flows: from the first frame to the second and back, each (N, 2, H, W) in pixels, float32.
        kernels: of the first and the second frame, each (N, 16, H, W); none where they depend on the time.
    """

    flows: tuple[Tensor, Tensor]
    kernels: tuple[Tensor, ...]


@dataclass(frozen=True)
class Blend:
    """The frame between, not yet rectified, and what it was made of.

    Attributes:
        blend: (N, 3, H, W), float32.
        flows: from the frame between to the first and to the second frame, (N, 2, H, W).
        images: the first and the second frame, warped, (N, 3, H, W).
    """

    blend: Tensor
    flows: tuple[Tensor, Tensor]
    images: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Synthesis(Blend):
    """The frame between, and what it was made of.

    Attributes:
        output: (N, 3, H, W), float32, not clipped.
        contexts: those of the first and the second frame, warped, (N, `ModelConfig.context_channels`, H, W).
    """

    output: Tensor
    contexts: tuple[Tensor, Tensor]


class DAIN(nn.Module):
    """The network. Its state dict has the official checkpoint's keys, whatever the attributes are called.

    Frames may have any size. What halves them for flow, depth or kernels sees them padded, and is cropped before it
    warps; where flow leads out of a frame its border is found. The original is given frames that are padded already,
    rectifies what lies around them too, and takes it for picture.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        self.flow = FlowNetwork(
            config.flow_pyramid, config.flow_dense, config.flow_dense_fine, config.flow_refine
        )
        self.depth = DepthNetwork(
            config.depth_stem, config.depth_widths, config.depth_narrow, config.depth_wide
        )
        self.context = ContextNetwork(config.context_width)
        self.kernels = KernelNetwork(config.kernel_widths)
        self.rectify = RectificationNetwork(
            config.rectify_channels, config.rectify_kernel, config.rectify_width, config.rectify_blocks
        )
        self.register_state_dict_post_hook(_to_official_keys)
        self.register_load_state_dict_pre_hook(_from_official_keys)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the networks run in: autocast's where that is on, else the weights'."""
        weight = self.rectify.head.weight
        if torch.is_autocast_enabled(weight.device.type):
            return torch.get_autocast_dtype(weight.device.type)
        return weight.dtype

    def prepare(self, dtype: torch.dtype) -> DAIN:
        """Make it fit for inference only: BatchNorm folded, weights in `dtype` except the sensitive ones, and
        in the channels-last layout, which is the faster one on CPUs and GPUs."""
        self.eval().requires_grad_(False)
        fold_batch_norm(self.depth)
        for module in self.modules():
            if not isinstance(module, FullPrecision) and not list(module.children()):
                module.to(dtype)
        for weight in self.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return self

    def features(
        self, image: Tensor, *, with_context: bool = True, log_depth: Tensor | None = None
    ) -> Features:
        """Depth, context and flow features of single frames (N, 3, H, W) in [0, 1].

        Args:
            with_context: without, there is none of its features, only the log depth: enough for `blend`.
            log_depth: (N, 1, H, W), float32, where it is known.
        """
        source = image.to(self.dtype)
        if log_depth is None:
            log_depth = self.log_depth(image)
        known = log_depth.detach()
        # A CPU warps float32 as fast as half precision, and then image and context are one tensor to warp.
        seen = image if image.device.type == "cpu" else source
        return Features(
            image=image,
            inverse_depth=1e-6 + torch.exp(-log_depth),
            context=self.context(seen, known.to(seen.dtype)) if with_context else known,
            pyramid=self.flow_features(image),
        )

    def log_depth(self, image: Tensor) -> Tensor:
        """The log depth of images (N, 3, H, W): (N, 1, H, W), float32."""
        return depth_of(self.depth, image.to(self.dtype), self.config.depth_scale)

    def flow_features(self, image: Tensor) -> tuple[Tensor, ...]:
        """`Features.pyramid` of images, alone."""
        padded = Padding.of(image, self.config.flow_multiple).add(image)
        return self.flow.features(downsample(padded.to(self.dtype), self.config.flow_scale))

    def flow_levels(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """The flow from the first frame to the second and, further on in the batch, back.

        Args:
            first, second: the frames' `Features.pyramid`.

        Returns:
            (2N, 2, h, w), in pixels of the frame, float32, for five levels from 1/64 to 1/4 of the padded size that
            `ModelConfig.flow_scale` leaves.
        """
        there = [torch.cat(levels) for levels in zip(first, second, strict=True)]
        back = [torch.cat(levels) for levels in zip(second, first, strict=True)]
        return [FLOW_UNIT * self.config.flow_scale * level for level in self.flow(there, back)]

    def motion(self, first: Features, second: Features, levels: Sequence[Tensor] | None = None) -> Motion:
        """Flow both ways and the interpolation kernels of a pair; `levels` if the flow is known."""
        finest = (levels or self.flow_levels(first.pyramid, second.pyramid))[-1]
        padding = Padding.of(first.image, self.config.flow_multiple)
        forward, backward = padding.remove(upsample(finest, 4 * self.config.flow_scale)).chunk(2)

        padding = Padding.of(first.image, self.config.kernel_multiple)
        images = (padding.add(frame.image).to(self.dtype) for frame in (first, second))
        of_first, of_second = self.kernels(*images)
        return Motion((forward, backward), (padding.remove(of_first), padding.remove(of_second)))

    def blend(self, first: Features, second: Features, motion: Motion, time: float | Tensor) -> Blend:
        """What `synthesise` rectifies. It needs of the features the image and the depth only."""
        flows = self._flows_at(first, second, motion, time)
        image_1, image_2 = (
            _warp(frame.image, flow, kernel)
            for frame, flow, kernel in zip((first, second), flows, motion.kernels, strict=True)
        )
        return Blend((1 - time) * image_1 + time * image_2, flows, (image_1, image_2))

    def _flows_at(
        self, first: Features, second: Features, motion: Motion, time: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the frame at `time` to the two frames; in training mode, as the original's, also out of them."""
        forward, backward = motion.flows
        to_first = self._project(time * forward, first.inverse_depth)
        to_second = self._project((1 - time) * backward, second.inverse_depth)
        return (to_first, to_second) if self.training else (within_frame(to_first), within_frame(to_second))

    def _project(self, flow: Tensor, weight: Tensor) -> Tensor:
        """The flow projected, its holes filled; in training mode, as in the original's, they stay zero.

        What fills a hole has no gradient. Elsewhere the gradient is that of the projection with its holes left.
        """
        if not self.training and not (
            torch.is_grad_enabled() and (flow.requires_grad or weight.requires_grad)
        ):
            return flow_projection(flow, weight, True)
        projected = flow_projection(flow, weight, False)
        if self.training:
            return projected
        return projected + (flow_projection(flow.detach(), weight.detach(), True) - projected).detach()

    def synthesise(
        self, first: Features, second: Features, motion: Motion, time: float | Tensor
    ) -> Synthesis:
        """The frame at `time`, a number or (N, 1, 1, 1), between the first (0) and the second (1)."""
        flow_1, flow_2 = self._flows_at(first, second, motion, time)
        kernel_1, kernel_2 = motion.kernels
        image_1, context_1 = _warp_both(first, flow_1, kernel_1)
        image_2, context_2 = _warp_both(second, flow_2, kernel_2)
        blend = (1 - time) * image_1 + time * image_2

        seen = (blend, image_1, image_2, flow_1, flow_2, kernel_1, kernel_2, context_1, context_2)
        # Parts in mixed layouts would be joined in the slow one.
        joined = [part.to(dtype=self.dtype, memory_format=torch.channels_last) for part in seen]
        residual = self.rectify(torch.cat(joined, 1))
        return Synthesis(
            blend=blend,
            flows=(flow_1, flow_2),
            images=(image_1, image_2),
            output=blend + residual.to(blend.dtype),
            contexts=(context_1, context_2),
        )

    def forward(self, first: Tensor, second: Tensor, time: float = 0.5) -> Synthesis:
        """The frame at `time` between two frames (N, 3, H, W).

        In training mode the projection's holes stay zero, as in the original's.
        """
        one, two = self.features(torch.cat((first, second))).halves()
        return self.synthesise(one, two, self.motion(one, two), time)


def _warp(image: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    return adaptive_warp(image, flow, kernel.to(image.dtype))


def _warp_both(frame: Features, flow: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """A frame's image and context. The context must not teach the flow and the kernels: gradients reach them through
    the image alone."""
    context = _warp(frame.context, flow.detach(), kernel.detach())
    if context.dtype == frame.image.dtype and not torch.is_grad_enabled():
        return context[:, :3], context  # it begins with the image
    return _warp(frame.image, flow, kernel), context


def _to_official_keys(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + official_key(key.removeprefix(prefix))] = state.pop(key)


def _from_official_keys(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = [*dict(module.named_parameters()), *dict(module.named_buffers())]
    for key in own:
        if prefix + official_key(key) in state:
            state[prefix + key] = state.pop(prefix + official_key(key))
