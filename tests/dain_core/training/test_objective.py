"""What is run for a loss, and what learns from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN
from dain_core.training.objective import Objective
from dain_core.training.precision import Precision
from tests.tiny_training import TINY, Slides


def run(parts: tuple[str, ...], **weights: float) -> tuple[dict[str, Tensor], DAIN, set[str]]:
    """What is watched, the model with its gradients, and the names of the parts that were run."""
    torch.manual_seed(0)
    model, ran = DAIN(TINY), set()

    def note(part: nn.Module, _: Any, name: str) -> None:
        ran.add(name)

    for name, part in model.named_children():
        part.register_forward_pre_hook(lambda part, inputs, name=name: note(part, inputs, name))
    batch = Slides((64, 64), torch.device("cpu"), 0).sample(2)
    loss, watched = Objective(model, parts, Precision.named("fp32"), weights=weights)(batch, 0.5)
    loss.backward()
    return watched, model, ran


def test_flow_alone_runs_nothing_else() -> None:
    alone, model, ran = run(("flow",), frame=0)
    assert ran == {"flow"} and "psnr_blend_synthetic" not in alone
    beside, other, _ = run(("flow", "kernels"))
    torch.testing.assert_close(alone["flow"], beside["flow"])
    torch.testing.assert_close(alone["epe"], beside["epe"])
    trained = [weight for weight in model.flow.parameters() if weight.requires_grad]
    assert trained and all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained)
    assert not any(weight.requires_grad for weight in model.kernels.parameters())
    assert all(weight.grad is not None for weight in other.kernels.parameters())


def test_of_what_lies_around_a_crop_nothing_is_learned() -> None:
    """Flow sees a crop of 48x80 as one of 64x128. Where that ends, nothing is known of it."""
    torch.manual_seed(0)
    model = DAIN(TINY)
    batch = Slides((48, 80), torch.device("cpu"), 0).sample(2)
    _, watched = Objective(model, ("flow", "kernels"), Precision.named("fp32"))(batch, 0.5)
    with torch.no_grad():
        one, two = model.features(torch.cat((batch.first, batch.last)), with_context=False).halves()
        flows = torch.cat(model.motion(one, two).flows)
    error = (flows - torch.cat(batch.flows.chunk(2, 1))).norm(dim=1).mean((1, 2))
    exactly_known = batch.supervised.repeat(2)
    expected = torch.stack((error[exactly_known].sum(), exactly_known.sum()))
    torch.testing.assert_close(watched["epe"], expected, rtol=1e-3, atol=0)
    assert watched["flow"].isfinite().all()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("depth",), {"depth"}),
        (("flow", "depth"), {"flow", "depth"}),
        (("flow", "kernels"), {"flow", "depth", "kernels"}),
        (("rectify",), {"flow", "depth", "kernels", "context", "rectify"}),
    ],
)
def test_what_nothing_learns_from_is_not_run(parts: tuple[str, ...], expected: set[str]) -> None:
    weights = {"frame": 0.0} if "depth" in parts else {}
    _, _, ran = run(parts, **weights)
    assert ran == expected


def test_psnr_is_learned_from_if_it_has_a_weight() -> None:
    without, _, _ = run(("kernels",))
    beside, _, _ = run(("kernels",), psnr=0.01)
    assert "psnr" not in without
    torch.testing.assert_close(beside["loss"][0], without["loss"][0] + 0.01 * beside["psnr"][0])
