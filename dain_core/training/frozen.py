"""Networks that do not train. They run as in inference: on a GPU the fused network takes a fraction of the time."""

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


def _can_be_fused(model: DAIN, dtype: torch.dtype) -> bool:
    device = next(model.parameters()).device
    return device.type == "cuda" and dtype != torch.float32 and FusedDAIN.supports(model.config, device)


class KnownDepth:
    """Estimates log depth with a copy of a depth network that does not train.

    Args:
        network: the depth network, on a GPU.
        scale: the factor by which the network's input is shrunk; see `ModelConfig.depth_scale`.
        dtype: the half-precision type of the computation.
    """

    def __init__(self, network: nn.Sequential, scale: int, dtype: torch.dtype) -> None:
        with next(network.parameters()).device:  # the layout of the weights depends on their device
            self._network = FusedDepth(deepcopy(network).eval().requires_grad_(False), dtype)
        self._scale = scale

    @staticmethod
    def of(model: DAIN, dtype: torch.dtype) -> KnownDepth | None:
        """Return the depth of `model`, or None if the fused network cannot run it."""
        return (
            KnownDepth(model.depth, model.config.depth_scale, dtype) if _can_be_fused(model, dtype) else None
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the log depth (N, 1, H, W), float32, of images (N, 3, H, W)."""
        # The feature maps are large, so that only eight images are in memory at a time.
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([depth_of(self._network, some, self._scale) for some in images.split(8)])


class Teacher:
    """A trained network whose flow and depth are targets.

    Args:
        model: the network. The teacher changes its weights: the caller must not use it any more.
        dtype: the precision of the fused network. A network that cannot be fused runs in float32.
    """

    def __init__(self, model: DAIN, dtype: torch.dtype) -> None:
        self._network: Any = (
            FusedDAIN(model, dtype) if _can_be_fused(model, dtype) else model.prepare(torch.float32)
        )

    @torch.no_grad()
    def teach(self, batch: Batch) -> Batch:
        """Return the batch with the teacher's flow and depth for the triplets that are not supervised."""
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
