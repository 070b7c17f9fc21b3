"""A CPU: frames in bands are the frames, and a frame that the memory does not hold is refused before it is begun."""

from __future__ import annotations

import pytest
import torch

from dain_core.runtime import ram
from dain_core.runtime.backends.cpu import CpuStages
from dain_core.runtime.backends.plain import PlainStages
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.memory import FrameTooLargeError


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("model", "bands"), [("dain-lite", (1, 30, 71)), ("dain", (30, 71))])
def test_a_frame_in_bands_is_the_frame_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, model: str, bands: tuple[int, ...], precision: str
) -> None:
    engine = Interpolator.load(model, device="cpu", precision=precision)
    first, second = torch.rand((2, 1, 3, 72, 100), generator=torch.Generator().manual_seed(2))
    pair = engine.pair(engine.frame(first), engine.frame(second))
    arguments = (pair.first.features, pair.second.features, pair.motion, torch.tensor(0.3))
    stages = engine._stages
    assert isinstance(stages, CpuStages)
    with torch.inference_mode():
        whole = PlainStages.synthesis(stages, *arguments)
        for rows in bands:
            monkeypatch.setattr(ram, "BAND_PIXELS", 100 * rows)
            assert all(map(torch.equal, stages.synthesis(*arguments), whole))


def test_a_frame_that_takes_too_much_memory_is_refused_and_a_smaller_one_is_made() -> None:
    engine = Interpolator.load("dain-lite", device="cpu", memory=2**30)
    with pytest.raises(FrameTooLargeError, match=r"1920x1080 needs about 3\.\d GiB .* 1\.0 GiB may be used"):
        engine.frame(torch.zeros(1, 3, 1080, 1920))
    assert engine.frame(torch.zeros(1, 3, 64, 64)).size == (64, 64)
