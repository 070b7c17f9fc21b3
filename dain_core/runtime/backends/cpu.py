"""The network as the paper has it, on a CPU. A frame is refused that the main memory does not hold.

Of a `DAIN` the last stage, which takes most of the memory, is made in bands of rows. A band is made with as many rows
around it as its middle depends on, so there are no seams. How high it is depends on the frame's width alone: whatever
memory a machine has, it makes the same frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cuda_ext import adaptive_warp_into
from dain_core.network.model import DAIN, Features, Motion
from dain_core.network.networks import Network
from dain_core.runtime import ram
from dain_core.runtime.backends.plain import PlainStages
from dain_core.runtime.backends.stages import checksum
from dain_core.runtime.budget import Budget


class CpuStages(PlainStages):
    """A network on a CPU.

    Args:
        budget: the main memory that may be used. The stages join it.
    """

    def __init__(self, model: Network, budget: Budget) -> None:
        super().__init__(model)
        self._budget = budget
        self._fits: torch.Size | None = None  # the last size of frames
        budget.join(self)

    def features(self, image: Tensor) -> Any:
        if image.shape != self._fits:
            left = self._budget.left(self, image.device)
            ram.check_fits(self.model.config, image.shape[2], image.shape[3], left)
            self._fits = image.shape
        return super().features(image)

    def synthesis(self, first: Any, second: Any, motion: Motion, time: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.model, DAIN):
            return super().synthesis(first, second, motion, time)
        output = _in_bands(self.model, first, second, motion, time)
        return output, checksum(output, *motion.flows)


def _in_bands(model: DAIN, first: Features, second: Features, motion: Motion, time: Tensor) -> Tensor:
    """The frame at `time`, as `DAIN.synthesise` makes it."""
    flows = model.flows_at(first, second, motion, time)
    height, width = first.image.shape[2:]
    rows, reach = max(ram.BAND_PIXELS // width, 1), model.config.rectify_reach
    output = torch.empty_like(first.image)
    for top in range(0, height, rows):
        around = range(max(top - reach, 0), min(top + rows + reach, height))
        made = _rows(model, (first, second), flows, motion.kernels, time, around)
        output[:, :, top : top + rows] = made[:, :, top - around.start :][:, :, :rows]
    return output


def _rows(
    model: DAIN,
    frames: tuple[Features, Features],
    flows: tuple[Tensor, Tensor],
    kernels: tuple[Tensor, ...],
    time: Tensor,
    rows: range,
) -> Tensor:
    """Some rows of the frame. Near both ends they are not right: they lack the rows around them."""
    contexts = [
        _warp(frame.context, flow, kernel, rows)
        for frame, flow, kernel in zip(frames, flows, kernels, strict=True)
    ]
    images = [context[:, :3] for context in contexts]  # a context begins with the image
    blend = (1 - time) * images[0] + time * images[1]
    beside = [tensor[:, :, rows.start : rows.stop] for tensor in (*flows, *kernels)]
    return blend + model.residual((blend, *images, *beside, *contexts)).to(blend.dtype)


def _warp(image: Tensor, flow: Tensor, kernel: Tensor, rows: range) -> Tensor:
    """Those rows of `adaptive_warp`."""
    shape = (*image.shape[:2], len(rows), image.shape[3])
    out = torch.empty(shape, dtype=image.dtype, memory_format=torch.channels_last)
    adaptive_warp_into(image, 0, flow, kernel, rows.start, out)
    return out
