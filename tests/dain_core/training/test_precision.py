"""Levels of precision, and the watch for numbers that are not finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN
from dain_core.training.errors import TrainingError
from dain_core.training.objective import Objective
from dain_core.training.precision import LEVELS, Masters, NanWatch, NonFiniteError, Precision
from tests.tiny_training import TINY, Slides

CPU = torch.device("cpu")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(TrainingError, match="'fp61'.*fp32, bf16, fp16, fp16-master"):
        Precision.named("fp61")


@pytest.mark.parametrize("name", LEVELS)
def test_what_is_sensitive_stays_in_float32(name: str) -> None:
    torch.manual_seed(0)
    precision, model = Precision.named(name), DAIN(TINY)
    seen: dict[str, set[torch.dtype]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.setdefault(type(module).__name__, set()).add(output.dtype)

    precision.cast(model)
    objective = Objective(model, ("flow", "kernels", "context", "rectify"), precision)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(note)
    loss, _ = objective(Slides((64, 64), CPU, 0).sample(2), 0.0)
    loss.backward()
    half = Precision.named(name).dtype
    assert loss.dtype == torch.float32
    assert seen["Conv2d"] == {half}
    assert seen["FullPrecisionConv2d"] == seen["FullPrecisionConvTranspose2d"] == {torch.float32}
    weights = {weight.dtype for weight in model.parameters()}
    assert weights == ({torch.float32, torch.float16} if precision.half_weights else {torch.float32})
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def test_masters_take_gradients_and_give_values() -> None:
    half, full = nn.Parameter(torch.ones(3, dtype=torch.float16)), nn.Parameter(torch.ones(2))
    masters = Masters([half, full])
    assert [weight.dtype for weight in masters.weights] == [torch.float32, torch.float32]
    assert masters.weights[1] is full
    half.grad = torch.full((3,), 0.5, dtype=torch.float16)
    masters.take_gradients()
    assert half.grad is None
    copy = masters.weights[0]
    assert copy.grad is not None
    for _ in range(8):  # each too small for float16 near 1
        with torch.no_grad():
            copy -= 2**-12 * copy.grad
    masters.give_values()
    assert half.tolist() == [1 - 2**-10] * 3
    assert full.tolist() == [1, 1]


class Spoiled(nn.Module):
    """Three layers of which the second gives or takes what is not finite."""

    def __init__(self, *, backward: bool) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(2, 2), nn.Linear(2, 2)
        self.root = nn.Identity()
        self.backward_only = backward

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = self.root(torch.where(x == x, (x - x) if self.backward_only else x / 0, x))
        return self.after(x.abs().sqrt())


def test_the_watch_names_the_first_module() -> None:
    network = Spoiled(backward=False)
    network(torch.ones(1, 2))  # unwatched, nothing happens
    with NanWatch(network), pytest.raises(NonFiniteError, match="the output of root is not finite"):
        network(torch.ones(1, 2))


def test_the_watch_names_the_first_gradient() -> None:
    network = Spoiled(backward=True)
    with NanWatch(network), pytest.raises(NonFiniteError, match="gradient of root's output"):
        network(torch.ones(1, 2)).sum().backward()
    network(torch.ones(1, 2)).sum().backward()  # no more hooks
