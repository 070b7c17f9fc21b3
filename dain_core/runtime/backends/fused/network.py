"""The network as a GPU runs it fastest: inference in half precision, equal to `DAIN` up to rounding.

Nothing is concatenated: layers and warps write into slices of the channels of the tensor that the next layer reads.
Bias and activation belong to the convolution before them. Narrow convolutions are `cuda_ext.convolve_into`, wide ones
cuDNN's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from cuda_ext import BLEND_CHANNELS, adaptive_warp_into, blend_into, flow_projection
from dain_core.network.model import DAIN, ModelConfig, Motion
from dain_core.network.modules.depth import depth_of
from dain_core.network.padding import Padding, within_frame
from dain_core.runtime.backends.fused.bands import Band, rows_seen
from dain_core.runtime.backends.fused.context import FusedContext
from dain_core.runtime.backends.fused.depth import FusedDepth
from dain_core.runtime.backends.fused.flow import FusedFlow
from dain_core.runtime.backends.fused.kernels import FusedKernels
from dain_core.runtime.backends.fused.layers import GROUP, empty
from dain_core.runtime.backends.fused.synthesis import FusedRectification
from dain_core.runtime.graphs import beside


@dataclass(eq=False)
class FusedFeatures:
    """What is known of a single frame. To save memory, `contexts` may be let go of at any time.

    Attributes:
        picture: (N, 4, H, W), channels-last, float32: the image in [0, 1] and the log depth.
        inverse_depth: (N, 1, H, W), float32.
        contexts: what `FusedContext` makes; none if they are made again when needed.
        pyramid: the flow network's feature maps, from 1/2 to 1/64 of the frame's padded size.
    """

    picture: Tensor
    inverse_depth: Tensor
    contexts: tuple[Tensor, ...]
    pyramid: tuple[Tensor, ...]

    @property
    def image(self) -> Tensor:
        return self.picture[:, :3]


@dataclass(frozen=True)
class _Side:
    """One of the two frames, and how it is warped: the flow at a time, (N, 2, H, W), and the kernels."""

    frame: FusedFeatures
    flow: Tensor
    kernel: Tensor

    @cached_property
    def rows_seen(self) -> tuple[list[int], list[int]]:
        return rows_seen(self.flow)


#: Rows of a warp's window beyond its first.
_WINDOW = 3


def _cropped(
    padding: Padding, maps: tuple[Tensor, Tensor], layout: torch.memory_format = torch.contiguous_format
) -> tuple[Tensor, Tensor]:
    """What was made of the padded frames, as the warps take it: dense."""
    one, two = (padding.remove(padded).contiguous(memory_format=layout) for padded in maps)
    return one, two


class FusedDAIN(nn.Module):
    """Made on the device of a `DAIN`, of which it takes the weights and which is of no use afterwards.

    Args:
        dtype: of the network.
        eight_bits: the blocks that multiply eight bits, of `eight_bit_blocks`; context only together with rectify,
            which sees it.
    """

    def __init__(self, model: DAIN, dtype: torch.dtype, eight_bits: Collection[str] = ()) -> None:
        super().__init__()
        model.eval().requires_grad_(False)
        self.config, self.dtype = model.config, dtype
        with model.rectify.head.weight.device:  # weights are laid out for the device that they are on
            self.depth = FusedDepth(model.depth, self.dtype, "depth" in eight_bits)
            self.context = FusedContext(model.context, self.dtype, "context" in eight_bits)
            self.flow = FusedFlow(model.flow, self.dtype, model.config.flow_scale)
            self.kernels = FusedKernels(model.kernels, self.dtype)
            self.rectify = FusedRectification(
                model.rectify, model.config, self.dtype, "rectify" in eight_bits, self.context.unit
            )
        self.eval().requires_grad_(False)

    @staticmethod
    def eight_bit_blocks(config: ModelConfig) -> tuple[str, ...]:
        """The blocks that can multiply eight bits, of which a tensor core takes 32 channels at once."""
        depths = (
            config.depth_stem,
            config.depth_narrow,
            config.depth_wide,
            *(4 * w for w in config.depth_widths),
        )
        seen = (config.rectify_width, 6 * config.context_width + BLEND_CHANNELS)
        blocks = {"depth": depths, "context": (config.context_width, *seen), "rectify": seen}
        return tuple(name for name, widths in blocks.items() if not any(width % 32 for width in widths))

    @staticmethod
    def supports(config: ModelConfig, device: torch.device) -> bool:
        """Whether this network's widths suit the tensor cores, and the GPU has such (compute capability 8.0)."""
        widths = (
            *config.flow_dense,
            *config.flow_dense_fine,
            config.context_width,
            config.rectify_width,
            *config.kernel_widths,
        )
        depths = (config.depth_stem, *config.depth_widths, config.depth_narrow, config.depth_wide)
        if any(width % GROUP for width in (*widths, *depths, config.flow_refine[-1])):
            return False
        return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)

    def log_depth(self, image: Tensor, rows: int | None = None) -> Tensor:
        """(N, 1, H, W), float32; for `rows`, of the frame, see `FusedDepth`."""
        scale = self.config.depth_scale
        return depth_of(partial(self.depth, rows=rows and rows // scale), image, scale)

    def features(
        self,
        image: Tensor,
        keep_contexts: bool = True,
        side: torch.cuda.Stream | None = None,
        log_depth: Callable[[Tensor], Tensor] | None = None,
    ) -> FusedFeatures:
        """What is known of single frames, see `DAIN.features`.

        Args:
            keep_contexts: the largest part of the features; left out, `synthesise` makes them, in bands.
            side: where to estimate depth meanwhile, see `beside`.
            log_depth: takes the place of the method of that name, for example as a graph.
        """
        padded = Padding.of(image, self.config.flow_multiple).add(image)
        depth, (contexts, pyramid) = beside(
            side,
            partial(log_depth or self.log_depth, image),
            lambda: (self.context(image) if keep_contexts else (), self.flow.features(padded)),
        )
        return FusedFeatures(
            picture=torch.cat((image, depth), 1).contiguous(memory_format=torch.channels_last),
            inverse_depth=1e-6 + torch.exp(-depth),
            contexts=contexts,
            pyramid=pyramid,
        )

    def motion(
        self,
        first: FusedFeatures,
        second: FusedFeatures,
        side: torch.cuda.Stream | None = None,
        flow: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> Motion:
        """What is known of a pair of frames, see `DAIN.motion`.

        Args:
            side: where to estimate flow meanwhile, see `beside`.
            flow: takes the place of `FusedFlow.between`, for example as a graph.
        """
        padding = Padding.of(first.image, self.config.kernel_multiple)
        flows, kernels = beside(
            side,
            partial(flow or self.flow.between, first.pyramid, second.pyramid),
            lambda: self.kernels.between(padding.add(first.image), padding.add(second.image)),
        )
        kernels = _cropped(padding, kernels, torch.channels_last)
        return Motion(_cropped(Padding.of(first.image, self.config.flow_multiple), flows), kernels)

    def synthesise(
        self,
        first: FusedFeatures,
        second: FusedFeatures,
        motion: Motion,
        time: Tensor,
        rows: int | None = None,
    ) -> Tensor:
        """The frame between the first (0) and the second (1), (N, 3, H, W), float32, not clipped.

        Args:
            time: one float32 on the device.
            rows: make so many rows at once; all if None. The result is the same.
        """
        forward, backward = motion.flows
        sides = [
            _Side(frame, within_frame(flow_projection(flow, frame.inverse_depth, True)), kernel)
            for frame, flow, kernel in zip(
                (first, second), (time * forward, (1 - time) * backward), motion.kernels, strict=True
            )
        ]
        height, made = first.picture.shape[2], []
        for band in Band.split(height, rows or height):
            seen = band.widened(self.rectify.reach, height)
            made.append(band.of(self._rectified(sides, time, seen), seen))
        return made[0] if len(made) == 1 else torch.cat(made, 2)

    def _rectified(self, sides: list[_Side], time: Tensor, band: Band) -> Tensor:
        """The frame's rows, as far as they depend on no others."""
        blend = empty(band.of(sides[0].frame.picture), 3)
        x = self.rectify.stem(self._gather(sides, time, band, blend))
        return self.rectify(x, blend)

    def _gather(self, sides: list[_Side], time: Tensor, band: Band, blend: Tensor) -> Tensor:
        """What the rectification sees of a band, and the band's `blend`."""
        gathered = empty(blend, self.rectify.channels, self.rectify.seen_dtype)
        contexts, rest = gathered[:, :-BLEND_CHANNELS], gathered[:, -BLEND_CHANNELS:]
        for side, target in zip(sides, contexts.chunk(2, 1), strict=True):
            for piece in self._pieces(side, band):
                self._warp_contexts(side, piece, band.top, target)
        one, two = sides
        pictures = one.frame.picture, two.frame.picture
        blend_into(pictures, (one.flow, two.flow), (one.kernel, two.kernel), time, band.top, blend, rest)
        return gathered

    def _warp_contexts(self, side: _Side, piece: Band, top: int, out: Tensor) -> None:
        """Warp the rows of a frame's contexts that are given, or made of the image, into rows from `top` on."""
        maps = side.frame.contexts or self.context(side.frame.image, (piece.top, piece.bottom))
        for image, target in zip(maps, out.chunk(len(maps), 1), strict=True):
            adaptive_warp_into(image, piece.top, side.flow, side.kernel, top, target)

    def _pieces(self, side: _Side, band: Band) -> Iterator[Band]:
        """Rows of a frame's contexts, no more at once than a band has, in which a band's warp finds all it reads."""
        height = side.flow.shape[2]
        if side.frame.contexts:
            yield Band(0, height)
            return
        first_rows, last_rows = side.rows_seen
        top, last = min(first_rows[band.rows]), max(last_rows[band.rows])
        # Every window must lie within one of the pieces, which therefore overlap.
        for piece in Band.split(max(last - _WINDOW - top, 0) + 1, band.bottom - band.top):
            yield Band(top + piece.top, min(top + piece.bottom + _WINDOW, last + 1))
