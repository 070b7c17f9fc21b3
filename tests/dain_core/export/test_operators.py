"""The operators of exported graphs against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cuda_ext
from cuda_ext import reference
from dain_core.export import operators
from dain_core.export.operators import StandardOperators

SIZES = [(1, 1, 1), (1, 13, 17), (2, 33, 20)]


def flow_with_holes(n: int, height: int, width: int) -> Tensor:
    """A random flow, some of which leads out of the frame, with a block that leaves a hole behind."""
    flow = 6 * torch.randn(n, 2, height, width)
    flow[:, :, height // 4 : height // 2, width // 4 : width // 2] += 9
    return flow


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
def test_correlation(size: tuple[int, int, int]) -> None:
    n, height, width = size
    first, second = torch.randn(2, n, 5, height, width)
    torch.testing.assert_close(operators.correlation(first, second), reference.correlation(first, second))


@pytest.mark.parametrize("fill_holes", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_flow_projection(size: tuple[int, int, int], fill_holes: bool) -> None:
    n, height, width = size
    flow, weight = flow_with_holes(*size), 0.1 + torch.rand(n, 1, height, width)
    made = operators.flow_projection(flow, weight, fill_holes)
    torch.testing.assert_close(made, reference.flow_projection(flow, weight, fill_holes))


def test_a_frame_that_all_flow_leaves_is_still() -> None:
    flow, weight = torch.full((1, 2, 4, 5), 50.0), torch.ones(1, 1, 4, 5)
    assert not operators.flow_projection(flow, weight, True).any()


@pytest.mark.parametrize("size", SIZES)
def test_adaptive_warp(size: tuple[int, int, int]) -> None:
    n, height, width = size
    image, kernel = torch.randn(n, 5, height, width), torch.randn(n, 16, height, width)
    flow = flow_with_holes(*size)
    made = operators.adaptive_warp(image, flow, kernel)
    torch.testing.assert_close(made, reference.adaptive_warp(image, flow, kernel), atol=1e-5, rtol=1e-5)


def test_networks_run_them_only_where_they_are_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(2, 1, 5, 6, 7)
    calls = []
    monkeypatch.setitem(operators._STANDARD, torch.ops.dain.correlation, lambda *x: calls.append(x))
    with StandardOperators():
        cuda_ext.correlation(*maps)
    cuda_ext.correlation(*maps)
    assert len(calls) == 1
