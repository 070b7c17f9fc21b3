"""Flow that is searched for: right where it is trusted, and not trusted where it cannot be right."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from dain_core.training.batch import TrainingDataError
from dain_core.training.footage.search import Search
from tests.pictures import moving


def test_flow_is_trusted_where_there_and_back_lead_back() -> None:
    first, second = (frame.mean(2).round().astype(np.uint8) for frame in moving([0, 12]))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    first[40:80, 90:130] = noise  # what is nowhere in the second
    there, back = Search().trusted(first, second)
    right = np.array([-12.0, 6.0])
    known = np.isfinite(there).all(2)
    inner = known[8:-8, 64:-8].copy()
    assert inner.mean() > 0.5
    assert not known[50:70, 100:120].any()
    assert (np.abs(there - right)[:, 60:][known[:, 60:]] < 0.5).mean() > 0.9
    assert not known[-4:, 60:].any()  # which the second frame does not show
    assert np.nanmedian(back[:, 60:] + right) == pytest.approx(0, abs=0.2)
    for coarse, fine in zip(Search().trusted(first, second, 4), (there, back), strict=True):
        np.testing.assert_array_equal(coarse, fine[2::4, 2::4])


def test_without_opencv_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(TrainingDataError, match="opencv-python-headless"):
        Search()
