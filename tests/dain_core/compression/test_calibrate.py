"""Ranges of activations: all of them, percentiles, and those of the least error."""

from __future__ import annotations

import pytest
import torch

from dain_core.compression.calibrate import METHODS, Histogram


@pytest.fixture
def outlier() -> Histogram:
    """A million numbers of a normal distribution, and one of a thousand."""
    found = Histogram()
    values = torch.randn((16, 4, 128, 128), generator=torch.Generator().manual_seed(0))
    for part in values:
        found.add(part[None])
    values[0, 0, 0, 0] = 1000.0
    found.add(values[:1])
    return found


def test_every_range_holds_most_of_what_was_seen(outlier: Histogram) -> None:
    ranges = {name: choose(outlier) for name, choose in METHODS.items()}
    assert ranges["max"][1] == 1000 and -6 < ranges["max"][0] < -4
    low, high = ranges["99.9"]
    assert 3.0 < high < 3.4 and -3.4 < low < -3.0
    assert high < ranges["99.99"][1] < ranges["99.999"][1] < 6
    assert 5 < ranges["mse"][1] <= 1000


def test_channels_of_different_sizes_are_noticed() -> None:
    values = torch.rand(1, 8, 16, 16)
    even, mixed = Histogram(), Histogram()
    even.add(values)
    values[:, 3] *= 100
    mixed.add(values)
    assert not even.is_mixed and mixed.is_mixed
    assert mixed.channels.argmax() == 3
