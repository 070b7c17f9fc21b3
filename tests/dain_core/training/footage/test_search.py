"""Flow that is searched for: right where it is trusted, and not trusted where it cannot be right."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dain_core.training.batch import TrainingDataError
from dain_core.training.footage.search import Steps
from tests.pictures import moving


def grey(places: Sequence[float]) -> list[NDArray[np.uint8]]:
    return [frame.mean(2).round().astype(np.uint8) for frame in moving(places)]


def test_flow_is_trusted_where_there_and_back_lead_back() -> None:
    first, second = grey([0, 12])
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    first[40:80, 90:130] = noise  # what is nowhere in the second
    steps = Steps([first, second])
    there, back = steps.trusted(0, 1)
    right = np.array([-12.0, 6.0])
    known = np.isfinite(there).all(2)
    inner = known[8:-8, 64:-8].copy()
    assert inner.mean() > 0.5
    assert not known[50:70, 100:120].any()
    assert (np.abs(there - right)[:, 60:][known[:, 60:]] < 0.5).mean() > 0.9
    assert not known[-4:, 60:].any()  # which the second frame does not show
    assert np.nanmedian(back[:, 60:] + right) == pytest.approx(0, abs=0.2)
    for coarse, fine in zip(steps.trusted(0, 1, 4), (there, back), strict=True):
        np.testing.assert_array_equal(coarse, fine[2::4, 2::4])


def test_what_goes_far_is_found_from_frame_to_frame() -> None:
    frames = grey([5, 0, 12, 24, 36, 48])
    there, back = Steps(frames).trusted(1, 4)
    at_once, _ = Steps([frames[1], frames[5]]).trusted(0, 1)
    shown = np.s_[:-30, 100:]  # in the last frame, too, and not before the part that rests
    for flow, right in ((there[shown], [-48, 24]), (back[30:, 52:-60], [48, -24])):
        known = np.isfinite(flow).all(2)
        assert known.mean() > 0.9
        assert np.abs(flow - right)[known].max() < 1
    assert np.isfinite(at_once[shown]).all(2).mean() < 0.5


def test_without_opencv_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(TrainingDataError, match="opencv-python-headless"):
        Steps(grey([0, 1]))
