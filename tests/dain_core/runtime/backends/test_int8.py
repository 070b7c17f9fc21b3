"""Convolutions of eight bits on a CPU, against those of float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dain_core.network.modules.layers import ResidualBlock, SlackConv2d
from dain_core.runtime.backends import int8
from dain_core.runtime.backends.int8 import Int8Conv2d
from dain_core.runtime.calibration import Calibration

pytestmark = pytest.mark.skipif(not int8.has_instructions(), reason="needs a CPU with VNNI or AMX")


def quantised(
    network: nn.Module, ranges: dict[str, tuple[float, float]], **channels: list[float]
) -> nn.Module:
    """The network inside of a block, in eight bits."""
    around = nn.ModuleDict({"block": network})
    named = {f"block.{name}".removesuffix("."): span for name, span in ranges.items()}
    given = {f"block.{name}".removesuffix("."): greatest for name, greatest in channels.items()}
    Calibration("any", "", "max", 1, named, given).apply(around)
    int8.quantise(around, ["block"])
    return around["block"]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("stride", "dilation", "size"), [(1, 1, 3), (2, 1, 3), (1, 4, 3), (1, 1, 1), (1, 1, 11)]
)
@torch.inference_mode()
def test_a_convolution_is_close(stride: int, dilation: int, size: int, dtype: torch.dtype) -> None:
    """Also at its border, where zeros are exact whatever the range."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(24, 20, size, stride, size // 2 * dilation, dilation))
    x = torch.rand(1, 24, 13, 17) * 3 - 1
    expected = network(x)
    eight = quantised(network.to(dtype), {"0": (-1.0, 2.0)})
    assert isinstance(eight[0], Int8Conv2d)
    found = eight(x.to(dtype))
    assert found.dtype == dtype and error(found.float(), expected) < 0.02
    assert error(eight(10 * x.to(dtype)).float(), 10 * expected) > 0.2  # what is beyond the range is cut off


@torch.inference_mode()
def test_channels_of_different_sizes_have_scales_of_their_own() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict({"conv": nn.Conv2d(8, 8, 3, padding=1)})
    sizes = torch.tensor([500.0, *[1.0] * 7])
    with torch.no_grad():
        network["conv"].weight.div_(sizes[:, None, None])
    x = (torch.rand(1, 8, 16, 16) - 0.5) * sizes[:, None, None]
    expected = network["conv"](x)
    eight = quantised(network, {"conv": (-250.0, 250.0)}, conv=(sizes / 2).tolist())
    assert error(eight["conv"](x), expected) < 0.02


@torch.inference_mode()
def test_negative_values_of_small_channels_are_not_cut() -> None:
    """The large channel is positive, so the least value of all is that of the small ones: -1 in their own scale."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"conv": nn.Conv2d(8, 8, 3, padding=1)})
    sizes = torch.tensor([50.0, *[0.1] * 7])
    with torch.no_grad():
        network["conv"].weight.div_(sizes[:, None, None])
    x = (torch.rand(1, 8, 16, 16) - torch.tensor([0.0, *[0.5] * 7])[:, None, None]) * sizes[:, None, None]
    expected = network["conv"](x)
    eight = quantised(network, {"conv": (-0.05, 50.0)}, conv=x.abs().amax((0, 2, 3)).tolist())
    assert error(eight["conv"](x), expected) < 0.02


@torch.inference_mode()
def test_bytes_are_handed_on_within_a_block() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(16)
    x = torch.rand(1, 16, 16, 16)
    expected, between = block(x), block.conv1(x)
    eight = quantised(block, {"conv1": (0.0, 1.0), "conv2": (0.0, float(between.max()))})
    assert eight.conv1(x).dtype == torch.uint8  # type: ignore[operator, union-attr]
    assert error(eight(x), expected) < 0.02


@torch.inference_mode()
def test_an_input_of_too_many_channels_is_cut() -> None:
    network = nn.Sequential(SlackConv2d(14, 8, 3, padding=1))
    x = torch.rand(1, 16, 8, 8)
    expected = network(x)
    eight = quantised(network, {"0": (0.0, 1.0)})
    assert error(eight(x), expected) < 0.02


def test_pixels_and_coordinates_stay_floats() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3))
    eight = quantised(network, {"0": (0.0, 1.0), "2": (0.0, 1.0)})  # of the middle one no range is known
    assert [type(layer) for layer in eight] == [nn.Conv2d] * 3  # type: ignore[union-attr]
