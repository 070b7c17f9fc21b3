"""The network `dain-refined`: DAIN with flow refined at the intermediate time, and with a multiscale rectification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cuda_ext import adaptive_warp, flow_projection
from dain_core.network.model import CONFIGS, ModelConfig, Motion
from dain_core.network.modules.depth import DepthNetwork, depth_of, fold_batch_norm
from dain_core.network.modules.flow import FLOW_UNIT, FlowNetwork
from dain_core.network.modules.layers import convert, downsample, upsample
from dain_core.network.modules.pyramid import PyramidNetwork, image_pyramid
from dain_core.network.modules.refinement import (
    Coarse,
    Refined,
    RefinementNetwork,
    joined,
    sample,
    sample_both,
)
from dain_core.network.modules.unet import MultiscaleRectification
from dain_core.network.padding import Padding, within_frame

#: The feature maps of a frame, from 1/2 of its size on.
Maps = Sequence[Tensor]

#: The rows of the frame that a row of the rectified result depends on, above and below, where nothing moves: those of
#: the finest block of the refinement, and those of a U-Net of four levels.
REACH = 160


@dataclass(frozen=True)
class RefinedConfig:
    """The widths of the network. Levels are listed from fine to coarse, from 1/2 of the frame's size on.

    Attributes:
        base: the widths of flow and depth.
        context: the channels of the levels of the feature pyramid.
        refine: the widths of the blocks of the refinement, one for each level.
        residuals: the number of residual blocks in each of these blocks.
        matched: the finest level, counted from 1, at which a block sees the correlation of both frames.
        rectify: the widths of the levels of the U-Net. It has as many levels as the pyramid, or fewer.
        kernels: the side in pixels of the kernels that warp a frame: 4, or 2, which means bilinear sampling.

    Raises:
        ValueError: there are no kernels of that side.
    """

    base: ModelConfig = field(default_factory=lambda: CONFIGS["dain-lite"])
    context: tuple[int, ...] = (32, 48, 64, 96, 128)
    refine: tuple[int, ...] = (48, 64, 96, 128, 128)
    residuals: tuple[int, ...] = (2, 3, 3, 4, 4)
    matched: int = 3
    rectify: tuple[int, ...] = (64, 96, 128, 160)
    kernels: int = 4

    def __post_init__(self) -> None:
        if self.kernels not in (2, 4):
            raise ValueError(f"kernels cannot be {self.kernels}: choose 4, or 2 for none")

    @property
    def context_multiple(self) -> int:
        """The number to whose multiples the sides of a frame are padded for refinement and rectification."""
        return int(2 ** len(self.context))

    @property
    def multiple(self) -> int:
        """The number of which the sides of a frame must be multiples so that nothing is padded."""
        return math.lcm(self.base.multiple, self.context_multiple)


@dataclass(frozen=True)
class FrameFeatures:
    """The features of single frames, which do not depend on the pair.

    Attributes:
        image: the frames, (N, 3, H, W), in [0, 1], float32.
        inverse_depth: (N, 1, H, W), float32, positive.
        pyramid: the feature maps of the flow network, from 1/2 to 1/64 of the frame's padded size.
        context: the feature maps of refinement and rectification, at 1/2, 1/4, … of the frame's padded size.
    """

    image: Tensor
    inverse_depth: Tensor
    pyramid: tuple[Tensor, ...]
    context: tuple[Tensor, ...]

    def halves(self) -> tuple[FrameFeatures, FrameFeatures]:
        """Return the features of the first half and of the second half of the batch."""
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
    """The intermediate frame, and its ingredients.

    Attributes:
        output: the frame, (N, 3, H, W), float32, not clipped to [0, 1].
        blend: the frame before the rectification, (N, 3, H, W), float32.
        flows: the flow from the intermediate frame to both frames, (N, 4, H, W), in pixels.
        share: the share of the first frame in each pixel of the blend, (N, 1, H, W), in [0, 1].
        images: the warped first and second frame, (N, 3, H, W).
        steps: the results of the blocks of the refinement. The last one has the full padded size.
    """

    output: Tensor
    blend: Tensor
    flows: Tensor
    share: Tensor
    images: tuple[Tensor, Tensor]
    steps: list[Refined]


class RefinedDAIN(nn.Module):
    """The network. It projects flow by depth as DAIN does, and refines flow, mask and kernels at the intermediate time.

    Args:
        config: the widths; None gives those of `dain-refined`.

    Example:
        ``RefinedDAIN()(first, second, 0.5).output`` is the frame in the middle.
    """

    def __init__(self, config: RefinedConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RefinedConfig()
        base = config.base
        self.flow = FlowNetwork(
            base.flow_pyramid, base.flow_dense, base.flow_dense_fine, base.flow_refine, base.flow_finest
        )
        self.depth = DepthNetwork(base.depth_stem, base.depth_widths, base.depth_narrow, base.depth_wide)
        self.context = PyramidNetwork(config.context)
        self.refine = RefinementNetwork(
            config.context, config.refine, config.residuals, config.matched, config.kernels == 4
        )
        # The rectification works at 1/2 of the size. It sees four pixels of the blend, of both warped images and of the
        # logit, and the features of the last block.
        seen = 4 * (3 + 3 + 3 + 1) + config.refine[0]
        contexts = [2 * width for width in config.context[: len(config.rectify)]]
        self.rectify = MultiscaleRectification(seen, contexts, config.rectify)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the networks run: that of autocast if it is on, else that of the weights."""
        weight = self.context.levels[0][0][0].weight  # type: ignore[index]
        if torch.is_autocast_enabled(weight.device.type):
            return torch.get_autocast_dtype(weight.device.type)
        dtype: torch.dtype = weight.dtype
        return dtype

    def prepare(self, dtype: torch.dtype) -> RefinedDAIN:
        """Prepare the network for inference in place, and return it. It cannot be trained afterwards.

        BatchNorm layers are folded. The weights become channels-last and get `dtype`, except for those of
        `FullPrecision` layers.
        """
        self.eval().requires_grad_(False)
        self.prepare_front(dtype)
        for part in (self.context, self.refine, self.rectify):
            convert(part, dtype)
        return self

    def prepare_front(self, dtype: torch.dtype) -> None:
        """Prepare flow and depth only, as `prepare` does. They do not train while the other parts do."""
        fold_batch_norm(self.depth)
        convert(self.flow, dtype)
        convert(self.depth, dtype)

    def features(self, image: Tensor) -> FrameFeatures:
        """Compute the features of single frames, (N, 3, H, W) in [0, 1], float32, of any size."""
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
        """Return the log depth, (N, 1, H, W), float32, of images (N, 3, H, W)."""
        return depth_of(self.depth, image.to(self.dtype), self.config.base.depth_scale)

    def contexts(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return `FrameFeatures.context` of images (N, 3, H, W)."""
        maps: tuple[Tensor, ...] = self.context(self._padding(image).add(image.to(self.dtype)))
        return maps

    def motion(self, first: FrameFeatures, second: FrameFeatures) -> Motion:
        """Compute the flow of a pair both ways. The result has no kernels, because they depend on the time."""
        scale = self.config.base.flow_scale
        finest = FLOW_UNIT * scale * self.flow.both_ways(first.pyramid, second.pyramid)[-1]
        padding = Padding.of(first.image, self.config.base.flow_multiple)
        forward, backward = padding.remove(upsample(finest, self.config.base.flow_shrinks)).chunk(2)
        return Motion((forward, backward), ())

    def projected(
        self, first: FrameFeatures, second: FrameFeatures, motion: Motion, time: float | Tensor
    ) -> Tensor:
        """Project the flow by depth: return the flow from the frame at `time` to both frames, (N, 4, H, W), in pixels.

        The result has no gradient: the projection with filled holes has none. Flow and depth therefore do not train.
        """
        forward, backward = (flow.detach() for flow in motion.flows)
        to_first = flow_projection(time * forward, first.inverse_depth.detach(), True)
        to_second = flow_projection((1 - time) * backward, second.inverse_depth.detach(), True)
        return torch.cat((within_frame(to_first), within_frame(to_second)), 1)

    def synthesise(
        self, first: FrameFeatures, second: FrameFeatures, motion: Motion, time: float | Tensor
    ) -> RefinedSynthesis:
        """Make the frame at `time`.

        Args:
            first, second: the features of the two frames.
            motion: the motion of the pair.
            time: a number or (N, 1, 1, 1), in (0, 1); the first frame is at 0, the second at 1.
        """
        projected = self.projected(first, second, motion, time)
        return self.refined(first, second, projected, _moment(time, first.image))

    def refined(
        self, first: FrameFeatures, second: FrameFeatures, projected: Tensor, time: Tensor
    ) -> RefinedSynthesis:
        """Make the frame at `time` from the projected flow.

        Args:
            first, second: the features of the two frames.
            projected: the result of `projected`, (N, 4, H, W), in pixels.
            time: (N, 1, 1, 1), float32, in (0, 1).
        """
        padding = self._padding(first.image)
        steps, coarse = self._coarse(first, second, projected, time)
        made = self._finished(coarse, (first.context, second.context))
        return RefinedSynthesis(
            output=padding.remove(made.output),
            blend=padding.remove(made.blend),
            flows=padding.remove(made.flows),
            share=padding.remove(made.share),
            images=(padding.remove(made.images[0]), padding.remove(made.images[1])),
            steps=[*steps, *made.steps],
        )

    def in_bands(
        self,
        first: FrameFeatures,
        second: FrameFeatures,
        motion: Motion,
        time: float | Tensor,
        rows: int,
    ) -> Tensor:
        """Make the frame at `time` as `synthesise` does, in bands, which takes less memory.

        Bands overlap by what their rows depend on: what convolutions reach, and where the flow leads. This waits for
        the GPU, because it looks at the flow.

        Args:
            first, second, motion, time: see `synthesise`.
            rows: the rows of a band, a multiple of 32.

        Returns:
            The frame, (N, 3, H, W), float32, not clipped to [0, 1].
        """
        projected, moment = self.projected(first, second, motion, time), _moment(time, first.image)
        coarse = self._coarse(first, second, projected, moment)[1]
        contexts = first.context, second.context
        height = coarse.flows.shape[2]
        bands = [self._band(coarse, contexts, top, min(top + rows, height)) for top in range(0, height, rows)]
        return self._padding(first.image).remove(torch.cat(bands, 2))

    def _band(self, coarse: Coarse, contexts: tuple[Maps, Maps], top: int, bottom: int) -> Tensor:
        """Return the rows of the frame from `top` up to `bottom`, both multiples of 32."""
        height, multiple = coarse.flows.shape[2], self.config.context_multiple
        inner = max(top - REACH, 0), min(bottom + REACH, height)
        seen = _rows_seen(coarse.rows(*inner).guess(), inner, height)
        while True:
            start, end = seen[0] // multiple * multiple, -(-seen[1] // multiple) * multiple
            one, two = (
                [level[:, :, start >> k : end >> k] for k, level in enumerate(maps, 1)] for maps in contexts
            )
            made = self._finished(coarse.rows(start, end), (one, two))
            seen = _rows_seen(made.flows[:, :, inner[0] - start : inner[1] - start], inner, height)
            if start <= seen[0] and seen[1] <= end:
                return made.output[:, :, top - start : bottom - start]
            seen = min(seen[0], start), max(seen[1], end)

    def _coarse(
        self, first: FrameFeatures, second: FrameFeatures, projected: Tensor, time: Tensor
    ) -> tuple[list[Refined], Coarse]:
        padding = self._padding(first.image)
        images = (padding.add(first.image), padding.add(second.image))
        return self.refine.coarse(images, (first.context, second.context), padding.add(projected), time)

    def _finished(self, coarse: Coarse, contexts: tuple[Maps, Maps]) -> RefinedSynthesis:
        """Make the frame from what `coarse` has come to. Its sides are multiples of `RefinedConfig.context_multiple`.

        A row of the result depends on `REACH` rows above and below, and on those to which the flow leads.
        """
        finest, x = self.refine.finest(coarse)
        flows, share, images = finest.flows, finest.logit.sigmoid(), coarse.images
        warped = (
            self._warped(images[0], flows[:, :2], x, frame=0),
            self._warped(images[1], flows[:, 2:], x, frame=1),
        )
        blend = share * warped[0] + (1 - share) * warped[1]
        pixels = torch.cat((blend, *warped, finest.logit), 1)
        output = blend + self.rectify(self._seen(pixels, x, *contexts, flows.detach()))
        return RefinedSynthesis(output, blend, flows, share, warped, [finest])

    def _warped(self, image: Tensor, flow: Tensor, x: Tensor, frame: int) -> Tensor:
        """Warp a frame, by its kernels if there are any. They are the largest maps of all, and end here."""
        kernels = self.refine.kernels
        if kernels is None:
            return sample(image, flow)
        return adaptive_warp(image, within_frame(flow), kernels.of_frame(x, frame))

    def _seen(self, pixels: Tensor, x: Tensor, first: Maps, second: Maps, flows: Tensor) -> Iterator[Tensor]:
        """Give what the rectification sees at each level, when it is there, so that no two levels are kept."""
        scaled = image_pyramid(flows, len(self.config.rectify))
        for level, (one, two) in enumerate(zip(first, second, strict=True)):
            context = sample_both(one, two, scaled[level + 1], 2 ** (level + 1))
            if level == 0:
                seen = nn.functional.pixel_unshuffle(pixels, 2).to(x.dtype, memory_format=torch.channels_last)
                context = joined((seen, x, context))
            yield context

    def forward(self, first: Tensor, second: Tensor, time: float | Tensor = 0.5) -> RefinedSynthesis:
        """Make the frame at `time`, in (0, 1), between two frames, (N, 3, H, W) in [0, 1]."""
        one, two = self.features(torch.cat((first, second))).halves()
        return self.synthesise(one, two, self.motion(one, two), time)

    def _padding(self, image: Tensor) -> Padding:
        return Padding.of(image, self.config.context_multiple)


def _moment(time: float | Tensor, image: Tensor) -> Tensor:
    """Return `time`, a number or (N, 1, 1, 1), as (N, 1, 1, 1), float32."""
    moment = torch.as_tensor(time, dtype=torch.float32, device=image.device).reshape(-1, 1, 1, 1)
    return moment.expand(image.shape[0], 1, 1, 1)


def _rows_seen(flows: Tensor, rows: tuple[int, int], height: int) -> tuple[int, int]:
    """Return the first row that pixels need which move by `flows`, and the row after the last one.

    Args:
        flows: (N, 4, h, W), in pixels, of the rows of a frame from `rows[0]` up to `rows[1]`.
        rows: these rows, which are among those needed.
        height: the number of rows of the frame.
    """
    at = torch.arange(*rows, dtype=flows.dtype, device=flows.device)[:, None] + flows[:, 1::2]
    lowest, highest = torch.stack(at.aminmax()).tolist()
    first, last = max(math.floor(lowest) - 2, 0), min(math.ceil(highest) + 4, height)
    return min(rows[0], first), max(rows[1], last)
