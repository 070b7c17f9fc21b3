from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dain_core.padding import pad

SIDES = st.integers(1, 150)


@given(SIDES, SIDES, st.sampled_from([32, 64, 128]))
def test_padding_is_the_least_and_cropping_undoes_it(height: int, width: int, multiple: int) -> None:
    frame = torch.rand(1, 3, height, width)
    padded, crop = pad(frame, multiple)
    for side, whole in zip((height, width), padded.shape[-2:], strict=True):
        assert whole % multiple == 0 and side <= whole < side + multiple
    assert torch.equal(crop.apply(padded), frame)


def test_a_size_that_fits_is_left_alone() -> None:
    frame = torch.rand(1, 3, 128, 192)
    assert pad(frame)[0] is frame


@pytest.mark.parametrize(("side", "before"), [(63, 0), (62, 1), (61, 1), (1, 31)])
def test_the_border_is_repeated_on_both_sides(side: int, before: int) -> None:
    frame = torch.arange(1.0, side + 1).expand(1, 1, 64, side)
    padded, crop = pad(frame)
    assert crop.left == before
    assert (padded[..., :before] == 1).all() and (padded[..., before + side :] == side).all()
