"""The fused network as a GPU's memory allows: in CUDA graphs, whole, or in bands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from dain_core.network.model import Motion
from dain_core.runtime.backends.fused.network import FusedDAIN, FusedFeatures
from dain_core.runtime.backends.stages import checksum, weight_bytes
from dain_core.runtime.budget import Budget
from dain_core.runtime.graphs import Graphed, tensors
from dain_core.runtime.memory import Plan, Planner, is_out_of_memory

log = logging.getLogger("dain.engine")

Made = TypeVar("Made")


class FusedStages:
    """`FusedDAIN` with a plan for the last size of frames.

    When memory runs out all the same, a smaller plan takes its place, and the stage is run again.

    Args:
        budget: the memory to plan with. The stages join it.
    """

    def __init__(self, model: FusedDAIN, device: torch.device, budget: Budget) -> None:
        self.model, self.replanned = model, 0
        self._device, self._budget = device, budget
        self._weight_bytes = weight_bytes(model)
        self._planner = Planner(
            model.config, model.dtype.itemsize, model.rectify.seen_dtype.itemsize, self._weight_bytes
        )
        self._plan: Plan | None = None
        self._features: Callable[..., Any]
        self._motion: Callable[..., Any]
        self._synthesis: Callable[..., Any]
        self._alive: WeakSet[FusedFeatures] = WeakSet()
        budget.join(self)

    def features(self, image: Tensor) -> FusedFeatures:
        def make() -> FusedFeatures:
            made: FusedFeatures = self._features(image)
            self._alive.add(made)
            return made

        return self._run(image, make)

    def motion(self, first: FusedFeatures, second: FusedFeatures) -> Motion:
        # Without what a graph would copy in vain.
        one, two = replace(first, contexts=()), replace(second, contexts=())
        return self._run(first.image, lambda: self._motion(one, two))

    def synthesis(
        self, first: FusedFeatures, second: FusedFeatures, motion: Motion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        def synthesise() -> tuple[Tensor, Tensor]:
            one, two = replace(first, pyramid=()), replace(second, pyramid=())
            # To make contexts again is to wait for the GPU, which a graph cannot do.
            stage = self._synthesis if one.contexts and two.contexts else self._synthesise
            made: tuple[Tensor, Tensor] = stage(one, two, motion, time)
            return made

        return self._run(first.image, synthesise)

    def held_bytes(self) -> int:
        kept = sum(tensor.nbytes for frame in self._alive for tensor in tensors(frame))
        return self._weight_bytes + kept

    def release(self) -> None:
        if self._plan is None:
            return
        self._plan = None
        del self._features, self._motion, self._synthesis
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # graphs that run still need their memory
            torch.cuda.empty_cache()

    def _synthesise(
        self, first: FusedFeatures, second: FusedFeatures, motion: Motion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert self._plan
        output = self.model.synthesise(first, second, motion, time, self._plan.rows)
        return output, checksum(output, *motion.flows)

    def _run(self, image: Tensor, stage: Callable[[], Made]) -> Made:
        with self._budget.turn(self):
            height, width = image.shape[2:]
            if self._plan is None or (self._plan.height, self._plan.width) != (height, width):
                self._follow(self._planner.best(height, width, self._budget.left(self, self._device)))
            while True:
                try:
                    return stage()
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                # Only now is the error gone, and with it the tensors that its traceback held.
                self._shrink()

    def _follow(self, plan: Plan) -> None:
        self._plan = plan
        self._features = partial(
            self.model.features,
            keep_contexts=plan.keep_contexts,
            log_depth=partial(self.model.log_depth, rows=plan.depth_rows),
        )
        self._motion, self._synthesis = self.model.motion, self._synthesise
        if plan.graphs and self._device.type == "cuda":
            side, pool = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
            if plan.small:
                self._features = Graphed(partial(self._features, side=side), pool)
                self._motion = Graphed(partial(self._motion, side=side), pool)
                self._synthesis = Graphed(self._synthesis, pool)
            else:  # only what has many kernels and small results: all that goes in and comes out is copied
                depth, flow = (Graphed(f, pool) for f in (self.model.log_depth, self.model.flow.between))
                self._features = partial(self._features, side=side, log_depth=depth)
                self._motion = partial(self._motion, side=side, flow=flow)

    def _shrink(self) -> None:
        assert self._plan
        plan = self._planner.smaller(self._plan)
        self._follow(plan)
        self.replanned += 1
        log.warning("GPU memory ran out: now %s", plan)
        if not plan.keep_contexts:
            for frame in self._alive:
                frame.contexts = ()
        torch.cuda.empty_cache()
