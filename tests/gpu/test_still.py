"""What stands still, and grain, are on a GPU what they are on a CPU."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
pytest.importorskip("av")

from cuda_ext import stillness
from tests.dain_core.runtime.test_still import bricks, flows, pan, textured, written
from worker import grain


@pytest.mark.parametrize("picture", [textured(), bricks()])
def test_the_same_is_found(picture: torch.Tensor) -> None:
    first, _, second = written(pan(picture, 10, 4))
    here = stillness(first, second, flows(10, 4))
    one, two, *both = (tensor.cuda() for tensor in (first, second, *flows(10, 4)))
    there = stillness(one, two, (both[0], both[1])).cpu()
    assert float((here != there).float().mean()) < 1e-3 and here.any()


@pytest.mark.parametrize(("height", "width"), [(128, 192), (123, 187), (97, 161), (9, 41), (7, 1), (1, 1)])
def test_the_same_is_found_in_frames_of_any_size_and_layout(height: int, width: int) -> None:
    """With flow that is rough, in half precision, and at one place no number."""
    noise = torch.randn(2, 1, 2, 128, 192, generator=torch.Generator().manual_seed(1)) * 0.7
    first, _, second = (frame[..., :height, :width] for frame in written(pan(textured(), 10, 4)))
    ways = tuple((flow + part)[..., :height, :width] for flow, part in zip(flows(10, 4), noise, strict=True))
    ways[0][..., height // 2, width // 2] = torch.nan
    here = stillness(first, second, (ways[0].half(), ways[1].half()))
    assert here.any() == (height > 9)
    for layout in (torch.contiguous_format, torch.channels_last):
        one, two = (frame.cuda().contiguous(memory_format=layout) for frame in (first, second))
        there = stillness(one, two, (ways[0].half().cuda(), ways[1].half().cuda())).cpu()
        assert float((here != there).float().mean()) < 1e-3


def test_little_memory_is_taken() -> None:
    frames = torch.rand(2, 1, 3, 540, 960, device="cuda")
    there, back = torch.zeros(2, 1, 2, 540, 960, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    stillness(frames[0], frames[1], (there, back))
    assert torch.cuda.max_memory_allocated() - before < 8 * 540 * 960


def test_the_same_grain_is_added() -> None:
    plane = (torch.rand(192, 256, generator=torch.Generator().manual_seed(1)) * 20 + 100).byte()
    smooth = torch.full_like(plane, 110)
    here = grain.add([smooth], grain.measure([plane], 8), 8, 3, Fraction(1, 2))[0]
    there = grain.add([smooth.cuda()], grain.measure([plane.cuda()], 8), 8, 3, Fraction(1, 2))[0].cpu()
    assert int((here.int() - there.int()).abs().max()) <= 1 and here.float().std() > 3
