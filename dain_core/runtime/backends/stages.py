"""The three stages of interpolation as the engine calls them: the work that a frame, a pair, and a time need."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dain_core.errors import DainCoreError


class BackendError(DainCoreError, ValueError):
    """A way to run networks that cannot be used here: the message says what it lacks."""


class Stages(Protocol):
    """A network on a device, which is the current one whenever a stage is called."""

    @property
    def replanned(self) -> int:
        """How often memory ran out, and a smaller plan took the place of the last."""

    def features(self, image: Tensor) -> Any:
        """What is known of one frame (1, 3, H, W); the attribute `image` of the result is that frame."""

    def motion(self, first: Any, second: Any) -> Any:
        """What is known of a pair of frames, given the features of both.

        The attribute `flows` of the result is the flow from the first to the second and back, (1, 2, H, W) each.
        """

    def synthesis(self, first: Any, second: Any, motion: Any, time: Tensor) -> tuple[Tensor, Tensor]:
        """The frame at a time, and a number that is finite if the frame can be trusted."""

    def held_bytes(self) -> int:
        """The bytes that are kept between calls: weights, and features that are still in use."""

    def release(self) -> None:
        """Let go of everything but those. The next call makes it again."""


def checksum(*tensors: Tensor) -> Tensor:
    """A number that is finite only if every element is; pixels and flows are too small for their sum not to be.

    Flows must be looked at because the warp copies pixels whose flow is no number: the output need not show it.
    """
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def weight_bytes(model: nn.Module) -> int:
    """The bytes of all weights of a network."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
