"""The stages of the refined network, on a CPU: what they make, and what they say where memory runs out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dain_core.network.modules.refinement import Coarse, RefinementNetwork
from dain_core.network.refined import RefinedConfig, RefinedDAIN
from dain_core.runtime.backends.refined import RefinedStages, _Plan
from dain_core.runtime.budget import Budget
from dain_core.runtime.memory import GIB, FrameTooLargeError
from tests.dain_core.network.test_refined import SMALL, frames, taught

CPU = torch.device("cpu")


def stages(model: RefinedDAIN) -> RefinedStages:
    return RefinedStages(model, CPU, torch.float32, Budget())


@torch.inference_mode()
def interpolated(made_by: RefinedStages, first: Tensor, second: Tensor) -> Tensor:
    one, two = (
        made_by.features(image.contiguous(memory_format=torch.channels_last)) for image in (first, second)
    )
    return made_by.synthesis(one, two, made_by.motion(one, two), torch.tensor(0.3))[0]


FORMS = (
    SMALL,
    replace(SMALL, kernels=2, base=replace(SMALL.base, flow_finest=3, depth_scale=8)),
    replace(SMALL, base=replace(SMALL.base, flow_scale=2)),
)


@pytest.mark.parametrize("config", FORMS)
def test_the_fused_form_makes_the_networks_frame(config: RefinedConfig) -> None:
    """Also where flow and depth are those of a smaller frame, or flow lacks its finest level, and without kernels."""
    first, second = frames(70, 101)
    with torch.inference_mode():
        expected = taught(config=config)(first, second, 0.3).output
    fused = stages(taught(config=config))
    torch.testing.assert_close(interpolated(fused, first, second), expected, atol=1e-4, rtol=0)


def test_the_kernels_of_half_precision_make_it_too() -> None:
    """Their packed weights take maps of a multiple of 16 channels."""
    first, second = frames(64, 64)
    with torch.inference_mode():
        expected = taught()(first, second, 0.3).output
    half = RefinedStages(taught(), CPU, torch.bfloat16, Budget())
    torch.testing.assert_close(interpolated(half, first, second), expected, atol=0.05, rtol=0)


class Shortage:
    """Has the synthesis run out of memory where it sees more than so many rows at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.seen: list[int] = []
        finest = RefinementNetwork.finest

        def short(network: RefinementNetwork, coarse: Coarse) -> object:
            self.seen.append(coarse.flows.shape[2])
            if coarse.flows.shape[2] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return finest(network, coarse)

        monkeypatch.setattr(RefinementNetwork, "finest", short)


def test_where_memory_runs_out_bands_make_the_same_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    made_by = stages(taught())
    expected = interpolated(made_by, *frames(448, 32))
    shortage = Shortage(monkeypatch, rows=430)
    torch.testing.assert_close(interpolated(made_by, *frames(448, 32)), expected, atol=1e-5, rtol=0)
    assert made_by.replanned == 2  # first without graphs, then in bands
    assert shortage.seen[:2] == [448, 448] and max(shortage.seen[2:]) <= 430
    interpolated(made_by, *frames(448, 32))
    assert made_by.replanned == 2  # the plan holds for frames of the size


def test_a_frame_that_does_not_fit_is_refused_and_smaller_ones_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_by = stages(taught())
    Shortage(monkeypatch, rows=64)
    with pytest.raises(FrameTooLargeError, match="128x96, which takes at least .* scale the video down"):
        interpolated(made_by, *frames(96, 128))
    assert interpolated(made_by, *frames(64, 64)).shape == (1, 3, 64, 64)


def test_a_budget_is_planned_with() -> None:
    def allowed(budget: int) -> RefinedStages:
        return RefinedStages(taught(), CPU, torch.float16, Budget(budget))

    whole = allowed(60 * GIB)._peak(_Plan(2160, 3840, rows=2160))
    assert allowed(whole)._best(2160, 3840).rows == 2160
    assert allowed(whole - 1)._best(2160, 3840).rows == 1088
    with pytest.raises(
        FrameTooLargeError, match=r"3840x2160 needs at least \d\.\d GiB .* 1\.0 GiB may be used"
    ):
        allowed(GIB)._best(2160, 3840)
