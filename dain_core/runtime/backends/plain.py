"""The network as the paper has it, run by PyTorch: on GPUs without the tensor cores of the fused one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dain_core.network.model import Motion
from dain_core.network.networks import Network
from dain_core.runtime.backends.stages import checksum, weight_bytes


class PlainStages:
    """A network without any change. Nothing of it is planned, so memory that runs out is an error."""

    replanned = 0

    def __init__(self, model: Network) -> None:
        self.model = model
        self._weight_bytes = weight_bytes(model)

    def features(self, image: Tensor) -> Any:
        return self.model.features(image)

    def motion(self, first: Any, second: Any) -> Motion:
        return self.model.motion(first, second)

    def synthesis(self, first: Any, second: Any, motion: Motion, time: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model.synthesise(first, second, motion, time).output
        return output, checksum(output, *motion.flows)

    def held_bytes(self) -> int:
        return self._weight_bytes

    def release(self) -> None:
        """There is nothing to let go of."""
