"""`RefinedDAIN` on a GPU: its flow and depth are the fused ones; graphs run small frames, and bands make large ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from dain_core.network.model import Motion
from dain_core.network.modules.depth import depth_of
from dain_core.network.padding import Padding
from dain_core.network.refined import REACH, FrameFeatures, RefinedConfig, RefinedDAIN
from dain_core.runtime.backends.fused.depth import FusedDepth
from dain_core.runtime.backends.fused.flow import FusedFlow
from dain_core.runtime.backends.fused.layers import GROUP
from dain_core.runtime.backends.fused.network import FusedDAIN
from dain_core.runtime.backends.stages import checksum, weight_bytes
from dain_core.runtime.budget import Budget
from dain_core.runtime.graphs import Graphed, beside
from dain_core.runtime.memory import GIB, FrameTooLargeError, is_out_of_memory

log = logging.getLogger("dain.engine")

#: Frames of up to so many pixels take a GPU less time than launching their kernels one by one: 1080p is among them, 4K
#: is not.
_GRAPH_PIXELS = 2**22

#: Bands are multiples of so many rows. With fewer than these, what they share would be most of the work.
_MULTIPLE, _LEAST_ROWS = 32, 64

# What the stages take in half precision, as measured: bytes for each pixel of the frame.
#: Of the caller's images, of two frames and of what lies between them.
_KEPT = 72 + 130
#: Of that part of a stage which sees the whole frame.
_WHOLE = 258
#: Of the finest part of the synthesis, which can be made in bands.
_BANDED = 260
#: Of what a graph copies.
_COPIES = 260
#: Bytes for the workspaces of libraries.
_WORKSPACES = 96 * 2**20


@dataclass(frozen=True)
class _Plan:
    """How frames of one size are made.

    Attributes:
        height, width: the size of the frame in pixels.
        rows: how many rows a band of the synthesis has; the frame's height where there is one band.
        graphs: whether the stages are CUDA graphs.
    """

    height: int
    width: int
    rows: int
    graphs: bool = False

    def peak(self, weight_bytes: int, element_bytes: int) -> int:
        """The most bytes that are allocated at a time."""
        share = min((self.rows + 2 * REACH) / self.height, 1) if self.rows < self.height else 1
        per_pixel = _KEPT + _WHOLE + share * _BANDED + _COPIES * self.graphs
        return weight_bytes + _WORKSPACES + int(self.height * self.width * per_pixel * element_bytes / 2)


def _plans(height: int, width: int) -> Iterator[_Plan]:
    """All plans, from the one with the least work on."""
    if height * width <= _GRAPH_PIXELS:
        yield _Plan(height, width, height, graphs=True)
    yield _Plan(height, width, height)
    bands = 2
    while (rows := -(-height // bands // _MULTIPLE) * _MULTIPLE) >= _LEAST_ROWS:
        yield _Plan(height, width, rows)
        bands *= 2


class RefinedStages:
    """The stages of `RefinedDAIN`, with a plan for the last size of frames.

    When memory runs out all the same, the next smaller plan takes its place, and the stage is run again.

    Args:
        dtype: of the layers.
        budget: the memory to plan with. The stages join it.
    """

    def __init__(self, model: RefinedDAIN, device: torch.device, dtype: torch.dtype, budget: Budget) -> None:
        self._device, self._budget, self._dtype, self.replanned = device, budget, dtype, 0
        model = model.to(device).eval().requires_grad_(False)
        with device:
            self._flow = FusedFlow(model.flow, self._dtype, model.config.base.flow_scale)
            self._depth = FusedDepth(model.depth, self._dtype)
        model.flow, model.depth = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self.model = model.prepare(self._dtype)
        self._weight_bytes = sum(map(weight_bytes, (model, self._flow, self._depth)))
        self._plan: _Plan | None = None
        self._stages: dict[str, Callable[..., Any]] = {}
        budget.join(self)

    @staticmethod
    def supports(config: RefinedConfig, device: torch.device) -> bool:
        """Whether the network's widths suit the tensor cores, and the GPU has such (compute capability 8.0)."""
        narrow = any(width % GROUP for width in (*config.context, *config.refine, *config.rectify))
        return not narrow and FusedDAIN.supports(config.base, device)

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
        self._plan, self._stages = None, {}
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # graphs that run still need their memory
            torch.cuda.empty_cache()

    def _run(self, image: Tensor, stage: str, *inputs: Any) -> Any:
        height, width = image.shape[2:]
        with self._budget.turn(self):
            if self._plan is None or (self._plan.height, self._plan.width) != (height, width):
                self._follow(self._best(height, width))
            while True:
                try:
                    return self._stages[stage](*inputs)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                # Only now is the error gone, and with it the tensors that its traceback held.
                self._shrink()

    def _best(self, height: int, width: int) -> _Plan:
        budget = self._budget.left(self, self._device)
        plans = list(_plans(height, width))
        for plan in plans:
            if self._peak(plan) <= budget:
                return plan
        raise FrameTooLargeError(
            f"a frame of {width}x{height} needs at least {self._peak(plans[-1]) / GIB:.1f} GiB of GPU memory, "
            f"{max(budget, 0) / GIB:.1f} GiB may be used: free memory on the GPU, allow more of it, or scale the video "
            "down",
            self._peak(plans[-1]),
        )

    def _peak(self, plan: _Plan) -> int:
        return plan.peak(self._weight_bytes, self._dtype.itemsize)

    def _shrink(self) -> None:
        before = self._plan
        assert before
        plans = list(_plans(before.height, before.width))
        smaller = plans[plans.index(before) + 1 :]
        self.release()
        if not smaller:
            raise FrameTooLargeError(
                f"GPU memory ran out at a frame of {before.width}x{before.height}, which takes at least "
                f"{self._peak(before) / GIB:.1f} GiB: free memory on the GPU, or scale the video down"
            )
        self._follow(smaller[0])
        self.replanned += 1
        log.warning("GPU memory ran out: now %s", smaller[0])

    def _follow(self, plan: _Plan) -> None:
        self._plan = plan
        self._stages = {
            "features": self._features,
            "motion": self._motion,
            "synthesis": self._synthesis,
        }
        if plan.graphs and self._device.type == "cuda":
            side, pool = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
            self._stages["features"] = partial(self._features, side=side)
            self._stages = {name: Graphed(stage, pool) for name, stage in self._stages.items()}

    def _features(self, image: Tensor, side: torch.cuda.Stream | None = None) -> FrameFeatures:
        base = self.model.config.base
        padded = Padding.of(image, base.flow_multiple).add(image)
        # Depth is many small kernels, which leave most of a GPU idle.
        log_depth, (pyramid, context) = beside(
            side,
            lambda: depth_of(self._depth, image, base.depth_scale),
            lambda: (self._flow.features(padded), self.model.contexts(image)),
        )
        return FrameFeatures(image, 1e-6 + torch.exp(-log_depth), pyramid, context)

    def _motion(self, first: FrameFeatures, second: FrameFeatures) -> Motion:
        padding = Padding.of(first.image, self.model.config.base.flow_multiple)
        forward, backward = self._flow.between(first.pyramid, second.pyramid)
        return Motion((padding.remove(forward).contiguous(), padding.remove(backward).contiguous()), ())

    def _synthesis(
        self, first: FrameFeatures, second: FrameFeatures, motion: Motion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert self._plan
        if self._plan.rows < self._plan.height:
            output = self.model.in_bands(first, second, motion, time, self._plan.rows)
        else:
            output = self.model.synthesise(first, second, motion, time).output
        return output, checksum(output, *motion.flows)
