"""The network of Depth-Aware Video Frame Interpolation, DAIN (Bao et al., CVPR 2019)."""

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
from dain_core.network.modules.flow import FLOW_LEVELS, FLOW_UNIT, FlowNetwork
from dain_core.network.modules.kernels import TAPS, KernelNetwork
from dain_core.network.modules.layers import convert, downsample, upsample
from dain_core.network.modules.synthesis import RectificationNetwork
from dain_core.network.padding import Padding, within_frame


@dataclass(frozen=True)
class ModelConfig:
    """The widths of the network. The defaults are those of the official network.

    Attributes:
        flow_pyramid, flow_dense, flow_dense_fine, flow_refine: see `FlowNetwork`. The finest level has its own
            `flow_dense_fine`, because it takes most of the time of the flow.
        flow_finest: the finest level of the flow: level L has 1/2^L of the size of what the flow network sees.
        flow_scale, depth_scale: the whole factors by which a frame is shrunk before its flow or depth is estimated.
        depth_stem, depth_widths, depth_narrow, depth_wide: see `DepthNetwork`.
        context_width: see `ContextNetwork`.
        kernel_widths: see `KernelNetwork`.
        rectify_kernel, rectify_width, rectify_blocks: see `RectificationNetwork`.

    Raises:
        ValueError: the flow has no such level.
    """

    flow_pyramid: tuple[int, ...] = (16, 32, 64, 96, 128, 196)
    flow_dense: tuple[int, ...] = (128, 128, 96, 64, 32)
    flow_dense_fine: tuple[int, ...] = (128, 128, 96, 64, 32)
    flow_refine: tuple[int, ...] = (128, 128, 128, 96, 64, 32)
    flow_finest: int = 2
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

    def __post_init__(self) -> None:
        if self.flow_finest not in FLOW_LEVELS:
            least, *_, most = sorted(FLOW_LEVELS)
            raise ValueError(f"flow_finest cannot be {self.flow_finest}: choose {least} to {most}")

    @staticmethod
    def named(name: str) -> ModelConfig:
        """Return the configuration called `name`; raise ValueError, with the list of names, if there is none."""
        if name not in CONFIGS:
            raise ValueError(f"no model is called {name!r}: choose one of {', '.join(CONFIGS)}")
        return CONFIGS[name]

    @property
    def flow_multiple(self) -> int:
        """The number to whose multiples the sides of a frame are padded for the flow, which halves them six times."""
        return 2 ** len(self.flow_pyramid) * self.flow_scale

    @property
    def flow_shrinks(self) -> int:
        """The factor by which the finest flow is smaller than the frame."""
        return int(2**self.flow_finest) * self.flow_scale

    @property
    def depth_multiple(self) -> int:
        """The number to whose multiples the sides of a frame are padded for the depth, which halves them four times."""
        return DEPTH_MULTIPLE * self.depth_scale

    @property
    def kernel_multiple(self) -> int:
        """The number to whose multiples the sides of a frame are padded for the kernels, which halve it five times."""
        return 2 ** (len(self.kernel_widths) - 1)

    @property
    def multiple(self) -> int:
        """The number of which the sides of a frame must be multiples so that nothing is padded."""
        return math.lcm(self.flow_multiple, self.depth_multiple, self.kernel_multiple)

    @property
    def context_channels(self) -> int:
        """The channels of `Features.context`: the image, three blocks of features, and the log depth."""
        return 3 + 3 * self.context_width + 1

    @property
    def rectify_channels(self) -> int:
        """The input channels of the rectification.

        They are the blend, and for each frame the warped image, the flow, the kernel and the warped context.
        """
        return 3 + 2 * (3 + 2 + TAPS + self.context_channels)

    @property
    def rectify_reach(self) -> int:
        """The rows that a row of the rectification depends on, above and below."""
        return self.rectify_kernel // 2 + 2 * self.rectify_blocks + 1


CONFIGS: Mapping[str, ModelConfig] = {
    "dain": ModelConfig(),
    # This network does a twentieth of the work. The finest level of the flow, the rectification and the kernels are
    # narrower. Depth is estimated at a quarter of the size, because it only weighs the flows that meet at a pixel. The
    # coarse levels of the flow have their full width, because they take little time.
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
    """The features of single frames, which do not depend on the pair.

    Attributes:
        image: the frames, (N, 3, H, W), in [0, 1], float32.
        inverse_depth: (N, 1, H, W), float32, positive.
        context: (N, `ModelConfig.context_channels`, H, W): the image, features, and the log depth as the last channel.
        pyramid: the feature maps of the flow network, from 1/2 to 1/64 of the frame's padded size.
    """

    image: Tensor
    inverse_depth: Tensor
    context: Tensor
    pyramid: tuple[Tensor, ...]

    def halves(self) -> tuple[Features, Features]:
        """Return the features of the first half and of the second half of the batch."""
        images, depths, contexts = (x.chunk(2) for x in (self.image, self.inverse_depth, self.context))
        pyramids = zip(*(level.chunk(2) for level in self.pyramid), strict=True)
        first, second = (Features(*parts) for parts in zip(images, depths, contexts, pyramids, strict=True))
        return first, second


@dataclass(frozen=True)
class Motion:
    """The motion of a pair of frames, which does not depend on the time of the frame between them.

    Attributes:
        flows: the flow from the first frame to the second, and back; (N, 2, H, W) each, in pixels, float32.
        kernels: the kernels of the first and the second frame, (N, 16, H, W) each; empty in a network whose kernels
            depend on the time.
    """

    flows: tuple[Tensor, Tensor]
    kernels: tuple[Tensor, ...]


@dataclass(frozen=True)
class Blend:
    """The intermediate frame before the rectification, and its ingredients.

    Attributes:
        blend: the frame, (N, 3, H, W), float32.
        flows: the flow from the intermediate frame to the first and to the second frame, (N, 2, H, W), in pixels.
        images: the warped first and second frame, (N, 3, H, W).
    """

    blend: Tensor
    flows: tuple[Tensor, Tensor]
    images: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Synthesis(Blend):
    """The intermediate frame, and its ingredients.

    Attributes:
        output: the frame, (N, 3, H, W), float32, not clipped to [0, 1].
        contexts: the warped contexts of the first and the second frame, (N, `ModelConfig.context_channels`, H, W).
    """

    output: Tensor
    contexts: tuple[Tensor, Tensor]


class DAIN(nn.Module):
    """The network. Its state dict has the keys of the official checkpoint.

    Frames may have any size. The networks of flow, depth and kernels get padded frames, and their results are cropped
    before they are used. A flow that leads out of a frame is shortened to its border. The original network instead
    gets frames that are padded already, and treats the padding as a part of the picture.

    Args:
        config: the widths; None gives the official network.

    Example:
        ``DAIN()(first, second, 0.5).output`` is the frame in the middle.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        self.flow = FlowNetwork(
            config.flow_pyramid,
            config.flow_dense,
            config.flow_dense_fine,
            config.flow_refine,
            config.flow_finest,
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
        """The dtype in which the networks run: that of autocast if it is on, else that of the weights."""
        weight = self.rectify.head.weight
        if torch.is_autocast_enabled(weight.device.type):
            return torch.get_autocast_dtype(weight.device.type)
        return weight.dtype

    def prepare(self, dtype: torch.dtype) -> DAIN:
        """Prepare the network for inference in place, and return it. It cannot be trained afterwards.

        BatchNorm layers are folded. The weights become channels-last and get `dtype`, except for those of
        `FullPrecision` layers.
        """
        self.eval().requires_grad_(False)
        fold_batch_norm(self.depth)
        convert(self, dtype)
        return self

    def features(
        self, image: Tensor, *, with_context: bool = True, log_depth: Tensor | None = None
    ) -> Features:
        """Compute depth, context and flow features of single frames.

        Args:
            image: the frames, (N, 3, H, W), in [0, 1], float32.
            with_context: whether to compute the context. Without it, `Features.context` holds the log depth only, which
                is enough for `blend`.
            log_depth: the log depth, (N, 1, H, W), float32, if it is known already.
        """
        source = image.to(self.dtype)
        if log_depth is None:
            log_depth = self.log_depth(image)
        known = log_depth.detach()
        # A CPU warps float32 as fast as half precision. In float32, image and context are one tensor to warp.
        seen = image if image.device.type == "cpu" else source
        return Features(
            image=image,
            inverse_depth=1e-6 + torch.exp(-log_depth),
            context=self.context(seen, known.to(seen.dtype)) if with_context else known,
            pyramid=self.flow_features(image),
        )

    def log_depth(self, image: Tensor) -> Tensor:
        """Return the log depth, (N, 1, H, W), float32, of images (N, 3, H, W)."""
        return depth_of(self.depth, image.to(self.dtype), self.config.depth_scale)

    def flow_features(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return `Features.pyramid` of images (N, 3, H, W)."""
        padded = Padding.of(image, self.config.flow_multiple).add(image)
        return self.flow.features(downsample(padded.to(self.dtype), self.config.flow_scale))

    def flow_levels(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """Return the flow from the first frame to the second, then, further on in the batch, back.

        Args:
            first, second: `Features.pyramid` of the two frames.

        Returns:
            For five levels, or fewer, (2N, 2, h, w), float32, in pixels of the frame. The levels have 1/64 to 1/4 of
            the padded size divided by `ModelConfig.flow_scale`.
        """
        levels = self.flow.both_ways(first, second)
        return [FLOW_UNIT * self.config.flow_scale * level for level in levels]

    def motion(self, first: Features, second: Features, levels: Sequence[Tensor] | None = None) -> Motion:
        """Compute the flow both ways and the kernels of a pair.

        Args:
            first, second: the features of the two frames.
            levels: the result of `flow_levels`, if it is known already.
        """
        finest = (levels or self.flow_levels(first.pyramid, second.pyramid))[-1]
        padding = Padding.of(first.image, self.config.flow_multiple)
        forward, backward = padding.remove(upsample(finest, self.config.flow_shrinks)).chunk(2)

        padding = Padding.of(first.image, self.config.kernel_multiple)
        images = (padding.add(frame.image).to(self.dtype) for frame in (first, second))
        of_first, of_second = self.kernels(*images)
        return Motion((forward, backward), (padding.remove(of_first), padding.remove(of_second)))

    def blend(self, first: Features, second: Features, motion: Motion, time: float | Tensor) -> Blend:
        """Make the blend that `synthesise` rectifies. It uses the image and the depth of the features only."""
        flows = self.flows_at(first, second, motion, time)
        image_1, image_2 = (
            _warp(frame.image, flow, kernel)
            for frame, flow, kernel in zip((first, second), flows, motion.kernels, strict=True)
        )
        return Blend((1 - time) * image_1 + time * image_2, flows, (image_1, image_2))

    def flows_at(
        self, first: Features, second: Features, motion: Motion, time: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the flow from the frame at `time` to both frames.

        The flow ends within the frames. In training mode, as in the original network, it may lead out of them.
        """
        forward, backward = motion.flows
        to_first = self._project(time * forward, first.inverse_depth)
        to_second = self._project((1 - time) * backward, second.inverse_depth)
        return (to_first, to_second) if self.training else (within_frame(to_first), within_frame(to_second))

    def _project(self, flow: Tensor, weight: Tensor) -> Tensor:
        """Project `flow`, and fill the holes of the result.

        In training mode, as in the original network, holes are zero instead. A filled hole has no gradient. The other
        pixels have the gradient of the projection without filled holes.
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
        """Make the frame at `time`.

        Args:
            first, second: the features of the two frames.
            motion: the motion of the pair.
            time: a number or (N, 1, 1, 1), in (0, 1); the first frame is at 0, the second at 1.
        """
        flow_1, flow_2 = self.flows_at(first, second, motion, time)
        kernel_1, kernel_2 = motion.kernels
        image_1, context_1 = _warp_both(first, flow_1, kernel_1)
        image_2, context_2 = _warp_both(second, flow_2, kernel_2)
        blend = (1 - time) * image_1 + time * image_2

        residual = self.residual(
            (blend, image_1, image_2, flow_1, flow_2, kernel_1, kernel_2, context_1, context_2)
        )
        return Synthesis(
            blend=blend,
            flows=(flow_1, flow_2),
            images=(image_1, image_2),
            output=blend + residual.to(blend.dtype),
            contexts=(context_1, context_2),
        )

    def residual(self, seen: Sequence[Tensor]) -> Tensor:
        """Rectify: return what is to be added to the blend, given all that the rectification sees, in its order."""
        # If the parts had different layouts, the result would have the slower one.
        joined = [part.to(dtype=self.dtype, memory_format=torch.channels_last) for part in seen]
        return self.rectify(torch.cat(joined, 1))

    def forward(self, first: Tensor, second: Tensor, time: float | Tensor = 0.5) -> Synthesis:
        """Make the frame at `time`, in (0, 1), between two frames, (N, 3, H, W) in [0, 1].

        In training mode, as in the original network, the holes of the projection are zero.
        """
        one, two = self.features(torch.cat((first, second))).halves()
        return self.synthesise(one, two, self.motion(one, two), time)


def _warp(image: Tensor, flow: Tensor, kernel: Tensor) -> Tensor:
    return adaptive_warp(image, flow, kernel.to(image.dtype))


def _warp_both(frame: Features, flow: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Warp the image and the context of a frame.

    Gradients reach the flow and the kernel through the image only, because the context must not train them.
    """
    context = _warp(frame.context, flow.detach(), kernel.detach())
    if context.dtype == frame.image.dtype and not torch.is_grad_enabled():
        return context[:, :3], context  # the context begins with the image
    return _warp(frame.image, flow, kernel), context


def _to_official_keys(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + official_key(key.removeprefix(prefix))] = state.pop(key)


def _from_official_keys(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = [*dict(module.named_parameters()), *dict(module.named_buffers())]
    for key in own:
        if prefix + official_key(key) in state:
            state[prefix + key] = state.pop(prefix + official_key(key))
