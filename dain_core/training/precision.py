"""The levels of precision of training, and the search for numbers that are not finite.

Some values are float32 at every level: the last layers of flow and depth (`FullPrecision`), flow in pixels, depth,
the sums of the projection and of the warps, all losses, the weights that the optimiser changes, and their average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from dain_core.network.modules.layers import FullPrecision
from dain_core.training.errors import TrainingError


@dataclass(frozen=True)
class Precision:
    """A level of precision.

    Attributes:
        name: the name that users give, such as "bf16".
        dtype: the dtype in which most layers compute.
        half_weights: whether the weights of the layers are stored in `dtype`, as copies of float32 masters. Autocast
            is then off.
        scaled: whether the loss is multiplied by a scale, so that small gradients do not vanish in `dtype`.
    """

    name: str
    dtype: torch.dtype
    half_weights: bool = False
    scaled: bool = False

    @staticmethod
    def named(name: str) -> Precision:
        """Return the level called `name`; raise TrainingError, with the list of names, if there is none."""
        if name not in LEVELS:
            raise TrainingError(f"there is no precision {name!r}: choose one of {', '.join(LEVELS)}")
        return LEVELS[name]

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which the network runs."""
        enabled = self.dtype != torch.float32 and not self.half_weights
        return torch.autocast(device.type, self.dtype if enabled else None, enabled=enabled)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Return the scaler of the loss.

        At a level that needs no scaling, its scale stays 1, and it only skips steps whose gradients are not finite.
        """
        if self.scaled:
            return torch.amp.GradScaler(device.type)
        return torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=2**31 - 1)

    def cast(self, network: nn.Module) -> None:
        """Convert the weights of `network` in place to the dtypes that they have during training."""
        if self.half_weights:
            for module in network.modules():
                if not isinstance(module, FullPrecision | nn.BatchNorm2d) and not list(module.children()):
                    module.to(self.dtype)


#: All levels by name. Apex calls fp16 O1, and fp16-master O2.
LEVELS = {
    level.name: level
    for level in (
        Precision("fp32", torch.float32),
        Precision("bf16", torch.bfloat16),
        Precision("fp16", torch.float16, scaled=True),
        Precision("fp16-master", torch.float16, half_weights=True, scaled=True),
    )
}


class Masters:
    """The weights that the optimiser changes.

    A layer's weight that is float32 is its own master. For any other weight the master is a float32 copy.

    Attributes:
        weights: the masters, in the order of the layers' weights.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._half = [weight for weight in weights if weight.dtype != torch.float32]
        self._copies = [nn.Parameter(weight.detach().float()) for weight in self._half]
        copies = iter(self._copies)
        self.weights = [weight if weight.dtype == torch.float32 else next(copies) for weight in weights]

    def take_gradients(self) -> None:
        """Move the gradients of the layers' weights to the float32 copies."""
        for weight, copy in zip(self._half, self._copies, strict=True):
            copy.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None

    def give_values(self) -> None:
        """Copy the values of the float32 copies to the layers' weights."""
        if self._half:
            with torch.no_grad():
                torch._foreach_copy_(list(self._half), list(self._copies))


class NonFiniteError(TrainingError):
    """A number is infinite or NaN. The message says where it came up first."""


class NanWatch:
    """A context in which a module raises NonFiniteError if its output, or the gradient of its output, is not finite.

    It waits for the device at every module. It is meant to explain a step that has gone wrong, not to run in training.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._handles: list[Any] = []

    def __enter__(self) -> NanWatch:
        for name, module in self._network.named_modules():
            self._handles.append(module.register_forward_hook(self._look_at(name or type(module).__name__)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @staticmethod
    def _look_at(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                require_finite(tensor, f"the output of {name}")
                if tensor.requires_grad:
                    tensor.register_hook(
                        lambda grad: require_finite(grad, f"the gradient of {name}'s output")
                    )

        return look


def require_finite(tensor: Tensor, what: str) -> None:
    """Raise NonFiniteError, naming `what`, unless every element is finite."""
    if not bool(tensor.isfinite().all()):
        raise NonFiniteError(f"{what} is not finite")


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in _tensors(item)]
    return []
