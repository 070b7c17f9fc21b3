"""Networks that do not train. They run as in inference: on a GPU in the fused form, in a fraction of the time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN
from dain_core.network.modules.depth import depth_of
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.runtime.backends.fused.depth import FusedDepth
from dain_core.training.batch import Batch


def _fits(model: DAIN, dtype: torch.dtype) -> bool:
    device = next(model.parameters()).device
    return device.type == "cuda" and dtype != torch.float32 and FusedDAIN.supports(model.config, device)


class KnownDepth:
    """The log depth (N, 1, H, W), float32, of images (N, 3, H, W), by a network that stays as it is."""

    def __init__(self, network: nn.Sequential, scale: int, dtype: torch.dtype) -> None:
        with next(network.parameters()).device:  # weights are laid out for the device that they are on
            self._network = FusedDepth(deepcopy(network).eval().requires_grad_(False), dtype)
        self._scale = scale

    @staticmethod
    def of(model: DAIN, dtype: torch.dtype) -> KnownDepth | None:
        """That of a model, if there is a faster way than to run it."""
        return KnownDepth(model.depth, model.config.depth_scale, dtype) if _fits(model, dtype) else None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        # Not all at once: their maps are large.
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([depth_of(self._network, some, self._scale) for some in images.split(8)])


class Teacher:
    """A trained network that says what flow and depth are. It is of no use to the caller afterwards."""

    def __init__(self, model: DAIN, dtype: torch.dtype) -> None:
        self._network: Any = FusedDAIN(model, dtype) if _fits(model, dtype) else model.prepare(torch.float32)

    @torch.no_grad()
    def teach(self, batch: Batch) -> Batch:
        """The batch with flow and depth where they were not known exactly."""
        pictures = (x.contiguous(memory_format=torch.channels_last) for x in (batch.first, batch.last))
        one, two = (self._network.features(picture) for picture in pictures)
        flows = torch.cat(self._network.motion(one, two).flows, 1)
        depth = 1 / torch.cat((one.inverse_depth, two.inverse_depth), 1)
        known = batch.supervised.view(-1, 1, 1, 1)
        return replace(
            batch,
            flows=torch.where(known, batch.flows, flows),
            depth=torch.where(known, batch.depth, depth),
            supervised=torch.ones_like(batch.supervised),
        )
