"""The stages of the refined network, on a CPU: what they make, and what they say where memory runs out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dain_core.network.refined import RefinedDAIN
from dain_core.runtime.backends.refined import RefinedStages
from dain_core.runtime.budget import Budget
from dain_core.runtime.memory import FrameTooLargeError
from tests.dain_core.network.test_refined import frames, taught

CPU = torch.device("cpu")


def stages(model: RefinedDAIN) -> RefinedStages:
    return RefinedStages(model, CPU, torch.float32, Budget())


@torch.inference_mode()
def interpolated(made_by: RefinedStages, first: Tensor, second: Tensor) -> Tensor:
    one, two = (
        made_by.features(image.contiguous(memory_format=torch.channels_last)) for image in (first, second)
    )
    return made_by.synthesis(one, two, made_by.motion(one, two), torch.tensor(0.3))[0]


def test_the_fused_front_is_the_networks_own() -> None:
    first, second = frames(70, 101)
    with torch.inference_mode():
        expected = taught()(first, second, 0.3).output
    torch.testing.assert_close(interpolated(stages(taught()), first, second), expected, atol=1e-4, rtol=0)


def test_a_frame_that_does_not_fit_is_refused_and_smaller_ones_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_by, synthesise = stages(taught()), RefinedDAIN.synthesise

    def full(self: RefinedDAIN, first: object, *rest: object) -> object:
        if first.image.shape[2] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return synthesise(self, first, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RefinedDAIN, "synthesise", full)
    with pytest.raises(FrameTooLargeError, match="128x72.*choose the model dain"):
        interpolated(made_by, *frames(72, 128))
    assert interpolated(made_by, *frames(64, 64)).shape == (1, 3, 64, 64)
