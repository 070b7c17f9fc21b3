"""What stands still, and grain, are on a GPU what they are on a CPU."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
pytest.importorskip("av")

from dain_core.runtime.still import stillness
from tests.dain_core.runtime.test_still import bricks, flows, pan, textured, written
from worker import grain


@pytest.mark.parametrize("picture", [textured(), bricks()])
def test_the_same_is_found(picture: torch.Tensor) -> None:
    first, _, second = written(pan(picture, 10, 4))
    here = stillness(first, second, flows(10, 4))
    one, two, *both = (tensor.cuda() for tensor in (first, second, *flows(10, 4)))
    there = stillness(one, two, (both[0], both[1])).cpu()
    assert float((here != there).float().mean()) < 1e-3 and here.any()


def test_the_same_grain_is_added() -> None:
    plane = (torch.rand(192, 256, generator=torch.Generator().manual_seed(1)) * 20 + 100).byte()
    smooth = torch.full_like(plane, 110)
    here = grain.add([smooth], grain.measure([plane], 8), 8, 3, Fraction(1, 2))[0]
    there = grain.add([smooth.cuda()], grain.measure([plane.cuda()], 8), 8, 3, Fraction(1, 2))[0].cpu()
    assert int((here.int() - there.int()).abs().max()) <= 1 and here.float().std() > 3
