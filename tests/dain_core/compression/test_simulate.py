"""Simulated eight bits: the frames of the real ones, and a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dain_core.compression.calibrate import histograms
from dain_core.compression.quantise import calibration_of
from dain_core.compression.simulate import simulated
from dain_core.evaluation.metrics import psnr
from dain_core.export.write import real_pair
from dain_core.network.modules.layers import SlackConv2d
from dain_core.network.networks import Network
from dain_core.runtime.backends import Source, int8
from dain_core.runtime.calibration import Calibration
from dain_core.weights.registry import registry

BLOCKS = ("context", "rectify")


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    first, second = (frame[..., :64, :96].contiguous() for frame in real_pair())
    return first, second


@pytest.fixture
def network(pair: tuple[Tensor, Tensor]) -> Network:
    entry = registry()["dain-lite"]
    network = Source(entry).network().eval()
    calibration_of(entry, histograms(network, [pair]), "max", 1).apply(network)
    return network


@pytest.mark.skipif(not int8.has_instructions(), reason="needs a CPU with VNNI or AMX")
@torch.inference_mode()
def test_the_simulation_is_what_a_cpu_computes(network: Network, pair: tuple[Tensor, Tensor]) -> None:
    exact = network(*pair, 0.5).output
    with simulated(network, "int8", BLOCKS):
        found = network(*pair, 0.5).output
    assert torch.equal(network(*pair, 0.5).output, exact)  # all is as it was
    int8.quantise(network, BLOCKS)
    real = network(*pair, 0.5).output
    assert psnr(found, real) > psnr(exact, real) + 6


@pytest.mark.parametrize("largest", [1.0, 50.0])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_rounding_passes_the_gradient_on(precision: str, largest: float) -> None:
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"block": torch.nn.Conv2d(8, 8, 3, padding=1)})
    sizes = torch.tensor([1.0] * 7 + [largest])
    channels = {"block": sizes.tolist()} if largest > 1 else {}
    Calibration("any", "", "max", 1, {"block": (0.0, largest)}, channels).apply(network)
    with torch.no_grad():
        network["block"].weight.div_(sizes[:, None, None])
    x = (torch.rand(1, 8, 9, 9) * sizes[:, None, None]).requires_grad_(True)
    wanted = torch.rand(1, 8, 9, 9)

    def gradients() -> tuple[Tensor, ...]:
        loss = (network["block"](x) - wanted).square().mean()
        return torch.autograd.grad(loss, [x, network["block"].weight])

    exact = gradients()
    with simulated(network, precision, ["block"]):  # type: ignore[arg-type]
        found = gradients()
    for ours, theirs in zip(found, exact, strict=True):
        assert not torch.equal(ours, theirs) and float((ours - theirs).norm()) < 0.1 * float(theirs.norm())


def test_what_is_cut_off_has_no_gradient() -> None:
    network = torch.nn.ModuleDict({"block": torch.nn.Conv2d(8, 8, 1)})
    Calibration("any", "", "max", 1, {"block": (0.0, 1.0)}, {}).apply(network)
    for precision, beyond in (("int8", 2.0), ("fp8", 8.0)):
        x = torch.full((1, 8, 2, 2), beyond).requires_grad_(True)
        with simulated(network, precision, ["block"]):  # type: ignore[arg-type]
            (found,) = torch.autograd.grad(network["block"](x).sum(), x)
        assert not found.any()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_channels_that_pad_an_input_change_nothing(precision: str) -> None:
    """Training on a GPU pads the channels of an input with zeros."""
    network = torch.nn.ModuleDict({"block": SlackConv2d(6, 8, 3, padding=1)})
    Calibration("any", "", "max", 1, {"block": (0.0, 50.0)}, {"block": [1.0] * 5 + [50.0]}).apply(network)
    x = torch.rand(1, 6, 9, 9)
    with simulated(network, precision, ["block"]):  # type: ignore[arg-type]
        padded = network["block"](torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 2)))
        torch.testing.assert_close(padded, network["block"](x))
