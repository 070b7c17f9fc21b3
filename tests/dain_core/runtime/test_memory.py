"""The planner: as little work as fits, nothing beyond the budget, and an end to shrinking."""

from __future__ import annotations

import pytest

from dain_core.network.model import ModelConfig
from dain_core.runtime.memory import GIB, FrameTooLargeError, Plan, Planner

HALF = Planner(ModelConfig(), element_bytes=2, seen_bytes=2, weight_bytes=50 * 2**20)
FLOAT = Planner(ModelConfig(), element_bytes=4, seen_bytes=4, weight_bytes=100 * 2**20)


def test_small_frames_are_graphs() -> None:
    assert HALF.best(512, 640, 60 * GIB) == Plan(512, 640, 512, 512, graphs=True)
    assert not HALF.best(1088, 1920, 60 * GIB).graphs


def test_a_narrow_network_has_graphs_of_larger_frames() -> None:
    lite = Planner(ModelConfig.named("dain-lite"), element_bytes=2, seen_bytes=2, weight_bytes=9 * 2**20)
    assert lite.best(1088, 1920, 60 * GIB).graphs
    assert not lite.best(2176, 3840, 60 * GIB).graphs


def test_plenty_of_memory_is_not_wasted() -> None:
    """Bands that cost next to nothing are made in any case."""
    plan = HALF.best(1088, 1920, 60 * GIB)
    assert plan.keep_contexts and plan.rows == 544 and plan.depth_rows == 1088
    assert HALF.peak(plan) < 4 * GIB


@pytest.mark.parametrize(
    ("height", "width", "gib", "kept"), [(1088, 1920, 3.2, True), (2176, 3840, 6.4, False)]
)
def test_caps_that_frames_must_fit(height: int, width: int, gib: float, kept: bool) -> None:
    plan = HALF.best(height, width, int(gib * GIB))
    assert plan.keep_contexts == kept and plan.rows > 300


@pytest.mark.parametrize("planner", [HALF, FLOAT], ids=["half", "float"])
@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (719, 1279), (1080, 1920), (2160, 3840), (4320, 7680)]
)
def test_less_memory_means_smaller_plans_until_there_is_none(
    planner: Planner, height: int, width: int
) -> None:
    plan, peaks, kept = planner.best(height, width, 200 * GIB), [], []
    while True:
        peaks.append(planner.peak(plan))
        kept.append(plan.keep_contexts)
        assert 0 < plan.rows <= height and 0 < plan.depth_rows < height + 16 and plan.depth_rows % 2 == 0
        try:
            plan = planner.best(height, width, peaks[-1] - 1)
        except FrameTooLargeError:
            break
    assert peaks == sorted(set(peaks), reverse=True) and len(peaks) > 1
    assert kept == sorted(kept, reverse=True)


def test_running_out_of_memory_leads_to_smaller_plans_until_there_is_none() -> None:
    plan, steps = HALF.best(2176, 3840, 60 * GIB), 0
    with pytest.raises(FrameTooLargeError, match=r"3840x2176.* at least \d\.\d GiB"):
        while True:
            smaller = HALF.smaller(plan)
            assert HALF.peak(smaller) <= HALF.peak(plan) and smaller.rows <= plan.rows or plan.keep_contexts
            plan, steps = smaller, steps + 1
    assert 3 <= steps <= 15 and plan.rows < 20


def test_what_lies_around_a_frame_takes_memory_too() -> None:
    """Flow sees a frame of 577x1025 as one of 640x1088."""
    a_bit_more, full = (HALF.peak(HALF.best(*size, 60 * GIB)) for size in ((577, 1025), (640, 1088)))
    a_bit_less = HALF.peak(HALF.best(576, 1024, 60 * GIB))
    pixels = 577 * 1025 / (576 * 1024)
    assert 1.001 * pixels * a_bit_less < a_bit_more < full


def test_a_frame_that_cannot_fit_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"8192x4352.* needs at least 2\d\.\d GiB of GPU memory, 8\.0 GiB may"
    ):
        HALF.best(4352, 8192, 8 * GIB)


def test_many_elements_of_one_tensor_are_avoided() -> None:
    plan = HALF.best(4352, 8192, 70 * GIB)
    assert not plan.keep_contexts and plan.rows * 8192 * 448 < 2**31
