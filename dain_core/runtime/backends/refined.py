"""`RefinedDAIN` on a GPU: its flow and depth are the fused ones, and small frames run as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dain_core.network.model import Motion
from dain_core.network.modules.depth import depth_of
from dain_core.network.padding import Padding
from dain_core.network.refined import FrameFeatures, RefinedDAIN
from dain_core.runtime.backends.fused.depth import FusedDepth
from dain_core.runtime.backends.fused.flow import FusedFlow
from dain_core.runtime.backends.stages import checksum, weight_bytes
from dain_core.runtime.budget import Budget
from dain_core.runtime.graphs import Graphed
from dain_core.runtime.memory import FrameTooLargeError, is_out_of_memory

#: Frames of up to so many pixels take a GPU less time than launching their kernels one by one: 1080p is among them, 4K
#: is not.
_GRAPH_PIXELS = 2**22


class RefinedStages:
    """The stages of `RefinedDAIN`. Memory is not planned: a frame that does not fit is a FrameTooLargeError.

    Args:
        dtype: of the layers.
        budget: what the stages share the device with.
    """

    replanned = 0

    def __init__(self, model: RefinedDAIN, device: torch.device, dtype: torch.dtype, budget: Budget) -> None:
        self._device, self._budget, self._dtype = device, budget, dtype
        model = model.to(device).eval().requires_grad_(False)
        with device:
            self._flow, self._depth = FusedFlow(model.flow, self._dtype), FusedDepth(model.depth, self._dtype)
        model.flow, model.depth = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self.model = model.prepare(self._dtype)
        self._weight_bytes = sum(map(weight_bytes, (model, self._flow, self._depth)))
        self._sizes: torch.Size | None = None
        self._stages: dict[str, Callable[..., Any]] = {}
        budget.join(self)

    def features(self, image: Tensor) -> FrameFeatures:
        return cast(FrameFeatures, self._run(image, "features", image))

    def motion(self, first: FrameFeatures, second: FrameFeatures) -> Motion:
        one, two = replace(first, context=()), replace(second, context=())
        return cast(Motion, self._run(first.image, "motion", one, two))

    def synthesis(
        self, first: FrameFeatures, second: FrameFeatures, motion: Motion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        one, two = replace(first, pyramid=()), replace(second, pyramid=())
        return cast(tuple[Tensor, Tensor], self._run(first.image, "synthesis", one, two, motion, time))

    def held_bytes(self) -> int:
        return self._weight_bytes

    def release(self) -> None:
        self._sizes, self._stages = None, {}
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # graphs that run still need their memory
            torch.cuda.empty_cache()

    def _run(self, image: Tensor, stage: str, *inputs: Any) -> Any:
        with self._budget.turn(self):
            if self._sizes != image.shape:
                self._sizes, self._stages = image.shape, self._of_size(image)
            try:
                return self._stages[stage](*inputs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Only now is the error gone, and with it the tensors that its traceback held.
            self.release()
        height, width = image.shape[2:]
        raise FrameTooLargeError(
            f"GPU memory ran out at a frame of {width}x{height}, and dain-refined cannot work in parts: free memory on "
            "the GPU, choose the model dain, or scale the video down"
        )

    def _of_size(self, image: Tensor) -> dict[str, Callable[..., Any]]:
        stages: dict[str, Callable[..., Any]] = {
            "features": self._features,
            "motion": self._motion,
            "synthesis": self._synthesis,
        }
        if self._device.type != "cuda" or image.shape[2] * image.shape[3] > _GRAPH_PIXELS:
            return stages
        pool = torch.cuda.graph_pool_handle()
        return {name: Graphed(stage, pool) for name, stage in stages.items()}

    def _features(self, image: Tensor) -> FrameFeatures:
        base = self.model.config.base
        return FrameFeatures(
            image=image,
            inverse_depth=1e-6 + torch.exp(-depth_of(self._depth, image, base.depth_scale)),
            pyramid=self._flow.features(Padding.of(image, base.flow_multiple).add(image)),
            context=self.model.contexts(image),
        )

    def _motion(self, first: FrameFeatures, second: FrameFeatures) -> Motion:
        padding = Padding.of(first.image, self.model.config.base.flow_multiple)
        forward, backward = self._flow.between(first.pyramid, second.pyramid)
        return Motion((padding.remove(forward).contiguous(), padding.remove(backward).contiguous()), ())

    def _synthesis(
        self, first: FrameFeatures, second: FrameFeatures, motion: Motion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        output = self.model.synthesise(first, second, motion, time).output
        return output, checksum(output, *motion.flows)
