"""The network as a GPU runs it fastest: inference in half precision, equal to `DAIN` up to rounding.

Nothing is concatenated: layers and warps write into slices of the channels of the tensor that the next layer reads.
Bias and activation belong to the convolution before them. Narrow convolutions are `cuda_ext.convolve_into`, wide ones
cuDNN's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import BLEND_CHANNELS, adaptive_warp_into, blend_into, flow_projection
from dain_core.fused.context import FusedContext
from dain_core.fused.depth import FusedDepth
from dain_core.fused.flow import FusedFlow
from dain_core.fused.kernels import FusedKernels
from dain_core.fused.layers import GROUP, empty, widen
from dain_core.fused.synthesis import FusedRectification
from dain_core.model import DAIN, ModelConfig, Motion
from dain_core.modules.flow import FLOW_UNIT
from dain_core.modules.layers import upsample


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
        depths = (config.depth_stem, *config.depth_widths, config.depth_narrow, config.depth_wide)
        narrow = any(width % GROUP for width in (*widths, *depths, config.flow_refine[-1]))
        if narrow or config.flow_scale * config.depth_scale > 1:
            return False
        return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)

    def features(self, image: Tensor) -> FusedFeatures:
        """See `DAIN.features`."""
        log_depth = self.depth(image)
        half = image.to(dtype=self.dtype, memory_format=torch.channels_last)
        return FusedFeatures(
            picture=torch.cat((image, log_depth), 1).contiguous(memory_format=torch.channels_last),
            inverse_depth=1e-6 + torch.exp(-log_depth),
            contexts=self.context(image),
            pyramid=self.flow.features(widen(half, GROUP)),
        )

    def motion(self, first: FusedFeatures, second: FusedFeatures) -> Motion:
        """See `DAIN.motion`."""
        there = [torch.cat(levels) for levels in zip(first.pyramid, second.pyramid, strict=True)]
        back = [torch.cat(levels) for levels in zip(second.pyramid, first.pyramid, strict=True)]
        forward, backward = upsample((FLOW_UNIT * self.flow(there, back)).contiguous(), 4).chunk(2)
        images = torch.cat((first.image, second.image), 1)
        images = images.to(dtype=self.dtype, memory_format=torch.channels_last)
        return Motion((forward, backward), self.kernels(widen(images, GROUP)))

    def synthesise(
        self, first: FusedFeatures, second: FusedFeatures, motion: Motion, time: Tensor
    ) -> FusedSynthesis:
        """The frame at `time`, one float32 on the device, between the first (0) and the second (1)."""
        forward, backward = motion.flows
        flows = (
            flow_projection(time * forward, first.inverse_depth, True),
            flow_projection((1 - time) * backward, second.inverse_depth, True),
        )
        blend = empty(first.picture, 3)
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
