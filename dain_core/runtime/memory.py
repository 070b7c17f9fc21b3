"""Fitting the fused network into a GPU's memory: what it takes, and the plan with the least work that fits.

Three things are large, and can be smaller without any change to the result:

* what the rectification sees, and its own maps: made in bands of rows. Bands overlap by what convolutions reach, so
  the smaller they are the more rows are made twice;
* the contexts, most of what is kept of a frame: made again for every new frame, band by band, as far as it reads them;
* the depth network's maps at full size: made in bands, which runs its first convolution twice.

Flow and kernels are always whole, and so are times: one frame is work enough.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cuda_ext import BLEND_CHANNELS
from dain_core.errors import DainCoreError
from dain_core.network.model import ModelConfig
from dain_core.network.modules.kernels import TAPS

GIB = 2**30

#: Frames of up to so many pixels take a GPU less time than launching its kernels one by one; where contexts are
#: narrower than the official ones, and with them all else, of as many more.
_GRAPH_PIXELS = 2**20
#: The share of rows that may be made twice to save memory that is not scarce.
_CHEAP = 0.02
#: In bands of fewer rows it takes less to make contexts again; in bands of fewer still, nothing is worth it.
_FEW_ROWS, _LEAST_ROWS = 128, 16
#: Tensors of more elements are slow in some libraries.
_MANY_ELEMENTS = 2**31

#: Rows that a row of the synthesis, of the contexts and of the depth network depends on, above and below.
_REACH, _CONTEXT_REACH, _DEPTH_REACH = 10, 17, 14

# What parts of the network with the official widths take at their peak, as measured: elements for each pixel.
_DEPTH, _DEPTH_IN_BANDS = 390, 240
_FLOW_AND_KERNELS = 170
#: How much more it is in float32, whose convolutions are cuDNN's: workspaces, and results that are copied.
_FLOAT32 = 2.1
#: Bytes for each pixel of images: those that the caller gives, and results that wait to be fetched.
_CALLERS = 72
#: Bytes for the workspaces of libraries.
_WORKSPACES = 96 * 2**20


def _padded(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


class FrameTooLargeError(DainCoreError, ValueError):
    """The frame does not fit into the memory that may be used, whatever the plan.

    Attributes:
        needed: the bytes that it takes at least; 0 where that is not known.
    """

    def __init__(self, message: str, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class Plan:
    """How frames of one size are made.

    Attributes:
        height, width: the size of the frame in pixels.
        rows: how many rows a band of the synthesis has.
        depth_rows: how many rows a band of the depth network has, which sees the frame padded.
        keep_contexts: whether contexts are kept with a frame.
        graphs: whether there are CUDA graphs, and networks that do not need each other run side by side.
    """

    height: int
    width: int
    rows: int
    depth_rows: int
    keep_contexts: bool = True
    graphs: bool = False

    @property
    def small(self) -> bool:
        """Whether whole stages are graphs, not depth and flow alone. A graph copies all that it is given and makes."""
        return self.height * self.width <= _GRAPH_PIXELS

    def share(self, rows: int) -> float:
        """The share of the frame's height that `rows` rows are, at most 1."""
        return min(rows / self.height, 1)


@dataclass(frozen=True)
class Planner:
    """Plans for one network.

    Attributes:
        config: the network's widths.
        element_bytes: the bytes of an element of the network's dtype.
        seen_bytes: the bytes of an element of what the rectification sees.
        weight_bytes: the bytes of all weights.
    """

    config: ModelConfig
    element_bytes: int
    seen_bytes: int
    weight_bytes: int

    def best(self, height: int, width: int, budget: int) -> Plan:
        """The plan with the least work that takes at most `budget` bytes.

        Raises:
            FrameTooLargeError: there is none.
        """
        plans = list(self._plans(height, width))
        for plan in plans:
            if self.peak(plan) <= budget:
                return plan
        least = min(self.peak(plan) for plan in plans)
        raise FrameTooLargeError(
            f"a frame of {width}x{height} needs at least {least / GIB:.1f} GiB of GPU memory, "
            f"{max(budget, 0) / GIB:.1f} GiB may be used: free memory on the GPU, allow more of it, or scale the video "
            "down",
            least,
        )

    def smaller(self, plan: Plan) -> Plan:
        """The plan to go on with where `plan` turned out to need more memory than there is, in whichever stage.

        Raises:
            FrameTooLargeError: there is no smaller plan.
        """
        size = self._size(plan)
        plans = [other for other in self._plans(plan.height, plan.width) if self._size(other) < size]
        if not plans:
            raise FrameTooLargeError(
                f"GPU memory ran out at a frame of {plan.width}x{plan.height}, which takes at least "
                f"{self.peak(plan) / GIB:.1f} GiB: free memory on the GPU, or scale the video down"
            )
        clearly = (other for other in plans if self._size(other) < 0.85 * size)
        return next(clearly, min(plans, key=self._size))

    def peak(self, plan: Plan) -> int:
        """The most bytes that are allocated at a time, while two frames and what lies between them are kept.

        They are the weights, what is kept, the caller's images, and the largest of the stages at work.
        """
        kept, stages = self._bytes(plan)
        per_pixel = _CALLERS + kept + max(stages)
        return self.weight_bytes + _WORKSPACES + int(plan.height * plan.width * per_pixel)

    def _size(self, plan: Plan) -> float:
        """A number to compare plans by. Unlike the peak, it tells plans apart whose largest stage is the same."""
        kept, stages = self._bytes(plan)
        return kept + sum(stages)

    def _bytes(self, plan: Plan) -> tuple[float, tuple[float, float, float]]:
        """For each pixel: what is kept of two frames, and what each stage takes, with the motion where there is one."""
        c, e = self.config, self.element_bytes
        padded = _padded(plan.height, c.flow_multiple) * _padded(plan.width, c.flow_multiple)
        around = padded / (plan.height * plan.width)
        pyramid = around * sum(width / 4**level for level, width in enumerate(c.flow_pyramid, 1))
        contexts = 3 * c.context_width * e if plan.keep_contexts else 0
        frame = 20 + pyramid * e + contexts  # 20: image and depth in float32
        motion = 16 + 2 * TAPS * e  # flows and kernels

        depth = _DEPTH * plan.share(plan.depth_rows + 2 * _DEPTH_REACH)
        narrower = c.depth_stem / ModelConfig.depth_stem / c.depth_scale**2
        networks = narrower * max(depth, _DEPTH_IN_BANDS) * e, frame + c.context_width * e
        features, beside = (sum(networks), 2) if plan.graphs else (max(networks), 1)
        bands = 28 + self._band(plan)  # 28: flows at a time, result
        much = _FLOAT32 if e == 4 else 1
        pairs = beside * _FLOW_AND_KERNELS * e * around
        stages = motion + much * features, much * pairs, motion + much * bands
        # Graphs keep their results, and copies of all that they are given.
        of_parts = 32 + 2 * pyramid * e  # image, depth and flows; pyramids
        copies = (3 * (frame + motion) if plan.small else of_parts) if plan.graphs else 0
        return 2 * frame + copies, stages

    def _band(self, plan: Plan) -> float:
        """Bytes for each pixel of the frame that a band of the synthesis takes."""
        c, e = self.config, self.element_bytes
        rows = plan.rows + 2 * _REACH
        gathered = plan.share(rows) * (12 + self.seen_bytes * (6 * c.context_width + BLEND_CHANNELS))
        # Four of the maps that follow are alive at once. What was gathered is gone by then.
        map_bytes = plan.share(rows) * e * c.rectify_width
        contexts = plan.share(rows + 2 * _CONTEXT_REACH) * e * 4 * c.context_width
        return max(gathered + (map_bytes if plan.keep_contexts else max(map_bytes, contexts)), 4 * map_bytes)

    def _plans(self, height: int, width: int) -> Iterator[Plan]:
        """All plans, from the one with the least work on."""
        depth_height = _padded(height, self.config.depth_multiple)
        if height * width * self.config.context_width <= _GRAPH_PIXELS * ModelConfig.context_width:
            yield Plan(height, width, height, depth_height, graphs=True)
        cheap = 1 + int(_CHEAP * height / (2 * _REACH))
        for keep_contexts, first, fewest in ((True, cheap, _FEW_ROWS), (False, 1, _LEAST_ROWS)):
            for bands in range(first, max(height // fewest, first) + 1):
                for depth_bands in (1, 2, 4, 8):
                    rows, depth_rows = -(-height // bands), depth_height // depth_bands
                    plan = Plan(height, width, rows, depth_rows, keep_contexts)
                    if self._most_elements(plan) < _MANY_ELEMENTS:
                        yield plan

    def _most_elements(self, plan: Plan) -> int:
        """The most elements that a tensor has which a plan can make smaller."""
        seen = (plan.rows + 2 * _REACH) * (6 * self.config.context_width + BLEND_CHANNELS)
        context = plan.height * self.config.context_width if plan.keep_contexts else 0
        depth = (plan.depth_rows + 2 * _DEPTH_REACH) * self.config.depth_stem
        return plan.width * max(seen, context, depth)


# ---------------------------------------------------------------- what there is


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
    """Whether memory ran out: PyTorch says so, or cuDNN, or one of our own operators."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "ALLOC_FAILED")
    )
