"""The network as a GPU runs it, here in float32 on the CPU: the same results as the network as the paper has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.fused import FusedDAIN
from dain_core.graphs import map_tensors, tensors
from dain_core.model import DAIN, ModelConfig, Motion

CONFIG = ModelConfig(
    flow_pyramid=(16, 16, 24, 32, 40, 52),
    flow_dense=(32, 32, 16, 16, 16),
    flow_refine=(32, 32, 32, 16, 16, 16),
    depth_stem=32,
    depth_widths=(16, 16, 16),
    depth_narrow=16,
    depth_wide=32,
    context_width=16,
    kernel_widths=(16, 16, 32, 32, 48, 144),
    rectify_width=16,
    rectify_blocks=2,
)


@pytest.fixture(scope="module")
def frames() -> tuple[Tensor, Tensor]:
    """Of a smooth picture that moves right by 6 pixels."""
    coarse = torch.rand((1, 3, 12, 16), generator=torch.Generator().manual_seed(3))
    large = F.interpolate(coarse, (64, 160), mode="bicubic").clamp(0, 1)
    return large[..., 16:144].contiguous(), large[..., 10:138].contiguous()


@pytest.fixture(scope="module")
def models() -> tuple[DAIN, FusedDAIN]:
    torch.manual_seed(0)
    plain, source = DAIN(CONFIG), DAIN(CONFIG)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as training leaves them
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    source.load_state_dict(plain.state_dict())
    return plain.eval(), FusedDAIN(source, torch.float32)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)


@torch.inference_mode()
def test_every_stage_is_the_same(models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor]) -> None:
    plain, fused = models
    theirs, ours = [plain.features(frame) for frame in frames], [fused.features(frame) for frame in frames]
    width = 3 * CONFIG.context_width
    for expected, found in zip(theirs, ours, strict=True):
        close(found.inverse_depth, expected.inverse_depth)
        close(found.picture, expected.context[:, [0, 1, 2, 3 + width]])
        close(torch.cat(found.contexts, 1), expected.context[:, 3 : 3 + width])
        for level, same in zip(found.pyramid, expected.pyramid, strict=True):
            close(level, same)
    motion, expected_motion = fused.motion(*ours), plain.motion(*theirs)
    for stage, same in zip(tensors(motion), tensors(expected_motion), strict=True):
        close(stage, same)
    result = fused.synthesise(*ours, motion, torch.tensor(0.3))
    expected_result = plain.synthesise(*theirs, expected_motion, 0.3)
    close(result.blend, expected_result.blend)
    close(result.output, expected_result.output)


@torch.inference_mode()
def test_bands_are_the_same(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = models[1]
    first, second = (fused.features(frame) for frame in frames)
    motion, time = fused.motion(first, second), torch.tensor(0.5)
    whole = fused.synthesise(first, second, motion, time).output
    row = (6 * CONFIG.context_width + 64) * frames[0].shape[-1]
    monkeypatch.setattr(fused, "band_elements", 30 * row)
    close(fused.synthesise(first, second, motion, time).output, whole)


@pytest.mark.parametrize("rows", [2, 22, 62, 100])
@torch.inference_mode()
def test_depth_in_bands_is_the_same(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor], rows: int
) -> None:
    plain, fused = models
    image = torch.cat(frames)
    close(fused.depth(image, rows), plain.depth(image))


@pytest.mark.parametrize("rows", [(0, 64), (0, 5), (30, 31), (14, 50), (47, 64)])
@torch.inference_mode()
def test_context_of_some_rows_is_the_same(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor], rows: tuple[int, int]
) -> None:
    plain, fused = models
    image = torch.cat(frames)
    found = torch.cat((image[:, :, slice(*rows)], *fused.context(image, rows)), 1)
    close(found, plain.context(image)[:, :, slice(*rows)])


def test_it_runs_what_it_can() -> None:
    cpu = torch.device("cpu")
    assert FusedDAIN.supports(ModelConfig(), cpu) and FusedDAIN.supports(CONFIG, cpu)
    assert not FusedDAIN.supports(replace(CONFIG, context_width=20), cpu)
    assert not FusedDAIN.supports(replace(CONFIG, depth_scale=2), cpu)


def test_tensors_are_found_in_tuples_and_dataclasses() -> None:
    values = [torch.full((1,), float(value)) for value in range(4)]
    motion = Motion((values[0], values[1]), (values[2], values[3]))
    doubled = map_tensors(lambda x: 2 * x, (motion,))
    assert [float(x) for x in tensors(doubled)] == [0, 2, 4, 6]
    with pytest.raises(TypeError, match="no tensors in float"):
        map_tensors(lambda x: x, 0.5)
