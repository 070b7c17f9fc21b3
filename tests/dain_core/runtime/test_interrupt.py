"""Stopping a network on a CPU: it looks often enough, and what it makes stays the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dain_core.runtime import interrupt
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.interrupt import Interruptible


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "dilation", "padding"), [(1, 1, 0), (3, 1, 1), (3, 8, 8), (5, 1, 4), (7, 2, 0)]
)
def test_a_convolution_in_bands_is_the_convolution(
    monkeypatch: pytest.MonkeyPatch, stride: int, size: int, dilation: int, padding: int
) -> None:
    monkeypatch.setattr(interrupt, "MULTIPLICATIONS", 1000)  # a row or a few of them in each band
    generator = torch.Generator().manual_seed(1)
    image = torch.rand((2, 3, 31, 20), generator=generator)
    weight, bias = torch.rand((4, 3, size, size), generator=generator), torch.rand(4, generator=generator)
    arguments = (image, weight, bias, stride, padding, dilation)
    looks = []
    with Interruptible(lambda: looks.append(None)):
        result = F.conv2d(*arguments)
    torch.testing.assert_close(result, F.conv2d(*arguments))
    assert len(looks) > 3


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_tensor_of_several_in_bands_is_the_same(
    monkeypatch: pytest.MonkeyPatch, order: torch.memory_format
) -> None:
    monkeypatch.setattr(interrupt, "ELEMENTS", 100)
    parts = [torch.rand((1, channels, 31, 20)).contiguous(memory_format=order) for channels in (3, 4, 8)]
    parts[1] = parts[1].half()
    looks = []
    with Interruptible(lambda: looks.append(None)):
        result = torch.cat(parts, 1)
    expected = torch.cat(parts, 1)
    assert torch.equal(result, expected) and result.dtype == expected.dtype
    assert result.stride() == expected.stride() and len(looks) > 10


def test_a_long_convolution_can_be_stopped_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "MULTIPLICATIONS", 1000)
    looks = iter(range(5))

    def check() -> None:
        if next(looks, None) is None:
            raise InterruptedError

    with pytest.raises(InterruptedError), Interruptible(check):
        F.conv2d(torch.zeros((1, 3, 64, 64)), torch.zeros((4, 3, 3, 3)))


def test_a_frame_is_the_same_where_it_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "MULTIPLICATIONS", 1_000_000)
    monkeypatch.setattr(interrupt, "ELEMENTS", 10_000)
    engine = Interpolator.load("dain-lite", device="cpu", precision="fp32")
    first, second = torch.rand((2, 1, 3, 72, 100), generator=torch.Generator().manual_seed(2))
    expected = engine.interpolate(first, second, [0.5])
    looks = []
    with engine.interruptible(lambda: looks.append(None)):
        result = engine.interpolate(first, second, [0.5])
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)
    assert len(looks) > 300
