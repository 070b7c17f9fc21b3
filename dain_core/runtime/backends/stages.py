"""The three stages of interpolation as the engine calls them: the work that a frame, a pair, and a time need."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN, Features, Motion
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.runtime.backends.fused.network import FusedFeatures
from dain_core.runtime.graphs import Graphed
from dain_core.runtime.memory import Plan, Planner

log = logging.getLogger("dain.engine")

Made = TypeVar("Made")


class Stages(Protocol):
    """A network on a device."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def replanned(self) -> int:
        """How often memory ran out, and a smaller plan took the place of the last."""

    def features(self, image: Tensor) -> Any:
        """What is known of one frame (1, 3, H, W); its attribute `image` is that frame."""

    def motion(self, first: Any, second: Any) -> Motion:
        """What is known of a pair."""

    def synthesis(self, first: Any, second: Any, motion: Motion, time: Tensor) -> tuple[Tensor, Tensor]:
        """The frame at a time, and a number that is finite if the frame can be trusted."""


class PlainStages:
    """`DAIN` as it is."""

    replanned = 0

    def __init__(self, model: DAIN) -> None:
        self.model = model

    def features(self, image: Tensor) -> Features:
        return self.model.features(image)

    def motion(self, first: Features, second: Features) -> Motion:
        return self.model.motion(first, second)

    def synthesis(
        self, first: Features, second: Features, motion: Motion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        output = self.model.synthesise(first, second, motion, time).output
        return output, _checksum(output, *motion.flows)


class FusedStages:
    """`FusedDAIN` as a GPU's memory allows: in CUDA graphs, whole, or in bands.

    There is a plan for the last size of frames. When memory runs out all the same, a smaller plan takes its place, and
    the stage is run again.

    Args:
        memory: see `Interpolator.load`.
    """

    def __init__(self, model: FusedDAIN, device: torch.device, memory: int | None) -> None:
        self.model, self.replanned = model, 0
        self._device, self._memory = device, memory
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        self._planner = Planner(
            model.config, model.dtype.itemsize, model.rectify.seen_dtype.itemsize, weights
        )
        self._plan: Plan | None = None
        self._features: Callable[..., Any]
        self._motion: Callable[..., Any]
        self._synthesis: Callable[..., Any]
        self._alive: WeakSet[FusedFeatures] = WeakSet()

    def features(self, image: Tensor) -> FusedFeatures:
        made: FusedFeatures = self._run(image, lambda: self._features(image))
        self._alive.add(made)
        return made

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

    def _synthesise(
        self, first: FusedFeatures, second: FusedFeatures, motion: Motion, time: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert self._plan
        output = self.model.synthesise(first, second, motion, time, self._plan.rows)
        return output, _checksum(output, *motion.flows)

    def _run(self, image: Tensor, stage: Callable[[], Made]) -> Made:
        height, width = image.shape[2:]
        if self._plan is None or (self._plan.height, self._plan.width) != (height, width):
            self._follow(self._planner.best(height, width, self._memory or usable_memory(self._device)))
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


def _checksum(*tensors: Tensor) -> Tensor:
    """A number that is finite only if every element is; pixels and flows are too small for their sum not to be.

    Flows must be looked at because the warp copies pixels whose flow is no number: the output need not show it.
    """
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def usable_memory(device: torch.device) -> int:
    """Four fifths of the GPU's memory that this process has or can still get, in bytes."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return int(0.8 * min(free + torch.cuda.memory_reserved(device), allowed))


def keep_freed_memory() -> None:
    """Have this process keep up to 2 GiB of freed main memory.

    Where it is returned to the system at once, as large blocks are by default, every 4 KiB of every feature map costs
    a page fault: a sixth of a frame's time on a CPU.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_max = -1, -4  # as malloc.h of glibc has them, which PyTorch's wheels need
        allocator = ctypes.CDLL(None)
        allocator.mallopt(mmap_max, 0)
        allocator.mallopt(trim_threshold, 2**31 - 1)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Also where cuDNN or one of our own operators says so."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "ALLOC_FAILED")
    )
