from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dain_core.network.padding import Padding, within_frame

SIDES = st.integers(1, 150)


@given(SIDES, SIDES, st.sampled_from([32, 64, 128]))
def test_padding_is_the_least_and_cropping_undoes_it(height: int, width: int, multiple: int) -> None:
    frame = torch.rand(1, 3, height, width)
    padding = Padding.of(frame, multiple)
    padded = padding.add(frame)
    for side, whole in zip((height, width), padded.shape[-2:], strict=True):
        assert whole % multiple == 0 and side <= whole < side + multiple
    assert torch.equal(padding.remove(padded), frame)


def test_a_size_that_fits_is_left_alone() -> None:
    frame = torch.rand(1, 3, 128, 192)
    padding = Padding.of(frame, 64)
    assert not padding and padding.add(frame) is frame


@pytest.mark.parametrize(("side", "before"), [(63, 0), (62, 1), (61, 1), (1, 31)])
def test_the_border_is_repeated_on_both_sides(side: int, before: int) -> None:
    frame = torch.arange(1.0, side + 1).expand(1, 1, 64, side)
    padding = Padding.of(frame, 64)
    assert (padding.left, padding.right, padding.top, padding.bottom) == (before, 64 - side - before, 0, 0)
    padded = padding.add(frame)
    assert (padded[..., :before] == 1).all() and (padded[..., before + side :] == side).all()


def test_or_something_else_is_put_around() -> None:
    frame = torch.ones(1, 2, 30, 32)
    padded = Padding.of(frame, 32).add(frame, torch.nan)
    assert padded[:, :, 1:31].isfinite().all() and padded[:, :, [0, 31]].isnan().all()


def test_flow_is_kept_within_the_frame() -> None:
    flow = 30 * torch.randn(2, 2, 20, 30, generator=torch.Generator().manual_seed(0))
    flow[0, :, 3, 4] = torch.nan
    kept = within_frame(flow)
    here = torch.stack(torch.meshgrid(torch.arange(30), torch.arange(20), indexing="xy"))
    there, size = here + kept, torch.tensor([29, 19])[:, None, None]
    known = torch.ones(2, 1, 20, 30, dtype=torch.bool)
    known[0, :, 3, 4] = False
    assert kept[0, :, 3, 4].isnan().all() and bool((((there >= 0) & (there <= size)) | ~known).all())
    inside = (here + flow >= 0) & (here + flow <= size)
    assert 0.2 < inside.float().mean() < 0.8 and torch.equal(kept[inside], flow[inside])
