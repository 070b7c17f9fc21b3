"""Muon: how far a step moves a weight, and what becomes of a gradient that is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dain_core.training.muon import Muon

SOUND, UNSOUND = torch.tensor(True), torch.tensor(False)


def moved(*shape: int, gradient: Tensor | None, sound: Tensor = SOUND, rate: float = 1.0) -> Tensor:
    """How the first step changes a weight, as a matrix."""
    weight = torch.zeros(shape)
    weight.grad = gradient
    Muon([weight], torch.tensor(rate), 0.0).step(sound)
    return -weight.flatten(1)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (64, 2, 3, 3), (16, 16, 1, 1)])
def test_all_directions_move_equally_far(shape: tuple[int, ...]) -> None:
    """Also those in which the gradient is a thousand times smaller."""
    torch.manual_seed(0)
    rows, columns = shape[0], 9 * shape[1] if shape[2] == 3 else shape[1]
    u, s, v = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    s = torch.logspace(0, -2, len(s))
    values = torch.linalg.svdvals(moved(*shape, gradient=((u * s) @ v).view(shape)))
    expected = 0.2 * max(rows, columns) ** 0.5
    assert 0.6 * expected < values.min() and values.max() < 1.3 * expected


def test_the_step_goes_down() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(16, 8, 3, 3)
    assert (moved(16, 8, 3, 3, gradient=gradient) * gradient.flatten(1)).sum() > 0


def test_the_rate_scales_a_step() -> None:
    gradient = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    whole, tenth = (moved(16, 8, 3, 3, gradient=gradient, rate=rate) for rate in (1.0, 0.1))
    torch.testing.assert_close(0.1 * whole, tenth)


@pytest.mark.parametrize(
    ("gradient", "sound"), [(None, SOUND), (torch.full((16, 8, 3, 3), torch.nan), UNSOUND)]
)
def test_without_a_sound_gradient_nothing_moves(gradient: Tensor | None, sound: Tensor) -> None:
    assert not moved(16, 8, 3, 3, gradient=gradient, sound=sound).any()
