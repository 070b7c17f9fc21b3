"""The network as a GPU runs it, here in float32 on the CPU: the same results as the network as the paper has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.compression.calibrate import histograms
from dain_core.network.model import DAIN, ModelConfig, Motion
from dain_core.runtime.backends.fused import FusedDAIN, layers
from dain_core.runtime.backends.fused.network import FusedFeatures
from dain_core.runtime.backends.fused.stages import FusedStages
from dain_core.runtime.budget import Budget
from dain_core.runtime.calibration import Calibration
from dain_core.runtime.graphs import map_tensors, tensors
from dain_core.runtime.memory import FrameTooLargeError, is_out_of_memory

CONFIG = ModelConfig(
    flow_pyramid=(16, 16, 24, 32, 40, 52),
    flow_dense=(32, 32, 16, 16, 16),
    flow_dense_fine=(16, 32, 16, 16, 16),
    flow_refine=(32, 32, 32, 16, 16, 16),
    depth_stem=32,
    depth_widths=(16, 16, 16),
    depth_narrow=16,
    depth_wide=32,
    depth_scale=2,
    context_width=16,
    kernel_widths=(16, 16, 32, 32, 48, 144),
    rectify_kernel=3,
    rectify_width=16,
    rectify_blocks=2,
)


@pytest.fixture(scope="module")
def frames() -> tuple[Tensor, Tensor]:
    """Of a smooth picture that moves right by 6 pixels."""
    coarse = torch.rand((1, 3, 12, 16), generator=torch.Generator().manual_seed(3))
    large = F.interpolate(coarse, (64, 160), mode="bicubic").clamp(0, 1)
    return large[..., 16:144].contiguous(), large[..., 10:138].contiguous()


@pytest.fixture(scope="module", params=["narrow", "wide"])
def models(request: pytest.FixtureRequest) -> tuple[DAIN, FusedDAIN]:
    """With residual blocks, and so contexts, as of narrow networks, and as of wide ones."""
    torch.manual_seed(0)
    plain, source = DAIN(CONFIG), DAIN(CONFIG)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as training leaves them
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    source.load_state_dict(plain.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "WIDE_BLOCK", 64 if request.param == "narrow" else 0)
        return plain.eval(), FusedDAIN(source, torch.float32)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("size", [(64, 128), (61, 103)])
@torch.inference_mode()
def test_every_stage_is_the_same(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor], size: tuple[int, int]
) -> None:
    """Also of frames that some networks must see padded."""
    plain, fused = models
    frames = frames[0][:, :, : size[0], : size[1]], frames[1][:, :, : size[0], : size[1]]
    theirs, ours = [plain.features(frame) for frame in frames], [fused.features(frame) for frame in frames]
    width = 3 * CONFIG.context_width
    for expected, found in zip(theirs, ours, strict=True):
        close(found.inverse_depth, expected.inverse_depth)
        close(found.picture, expected.context[:, [0, 1, 2, 3 + width]])
        close(torch.cat(found.contexts, 1), expected.context[:, 3 : 3 + width])
        for level, same in zip(found.pyramid, expected.pyramid, strict=True):
            close(level[:, : same.shape[1]], same)
    motion, expected_motion = fused.motion(*ours), plain.motion(*theirs)
    for stage, same in zip(tensors(motion), tensors(expected_motion), strict=True):
        close(stage, same)
    result = fused.synthesise(*ours, motion, torch.tensor(0.3))
    close(result, plain.synthesise(*theirs, expected_motion, 0.3).output)


def still(height: int, width: int, seed: int) -> Tensor:
    return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(seed))


def steep(height: int, width: int, seed: int) -> Tensor:
    """A flow that leads up to half the frame up and down, out of it, and nowhere."""
    flow = torch.randn((1, 2, height, width), generator=torch.Generator().manual_seed(seed))
    flow = flow * torch.tensor([4.0, height / 4])[:, None, None]
    flow[:, :, height // 2, ::5] = float("nan")
    return flow


@pytest.mark.parametrize(("height", "rows"), [(91, 1000), (64, 40), (91, 40), (64, 7)])
@pytest.mark.parametrize("calm", [True, False])
@torch.inference_mode()
def test_bands_are_the_same(models: tuple[DAIN, FusedDAIN], height: int, rows: int, calm: bool) -> None:
    """With contexts kept, and with those of one frame or of both made again band by band."""
    fused, width, time = models[1], 32, torch.tensor(0.5)
    frames = [_features(fused, height, width, seed) for seed in (1, 2)]
    flows = [steep(height, width, seed) for seed in (3, 4)]
    flows = [flow.nan_to_num().clamp(-6, 6) if calm else flow for flow in flows]
    kernels = [still(height, width, seed).repeat(1, 6, 1, 1)[:, :16] for seed in (5, 6)]
    motion = Motion((flows[0], flows[1]), (kernels[0], kernels[1]))
    whole = fused.synthesise(*frames, motion, time)
    slim = [replace(frame, contexts=()) for frame in frames]
    for first, second in (frames, (frames[0], slim[1]), slim):
        torch.testing.assert_close(
            fused.synthesise(first, second, motion, time, rows), whole, atol=1e-5, rtol=0
        )


def _features(fused: FusedDAIN, height: int, width: int, seed: int) -> FusedFeatures:
    """Of a frame that need not have sides that the other networks can halve."""
    image, depth = still(height, width, seed), still(height, width, seed + 10)[:, :1]
    return FusedFeatures(torch.cat((image, depth), 1), depth, fused.context(image), ())


@torch.inference_mode()
def test_features_may_leave_the_contexts_out(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor]
) -> None:
    full, slim = models[1].features(frames[0]), models[1].features(frames[0], keep_contexts=False)
    assert slim.contexts == () and len(full.contexts) == (1 if models[1].context.together else 3)
    for ours, theirs in zip(tensors(slim), tensors(replace(full, contexts=())), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("rows", [2, 22, 62, 100])
@torch.inference_mode()
def test_depth_in_bands_is_the_same(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor], rows: int
) -> None:
    plain, fused = models
    image = torch.cat(frames)
    close(fused.depth(image, rows), plain.depth(image))
    odd = image[:, :, :59, :101]
    close(fused.log_depth(odd, 2 * rows), plain.log_depth(odd))


@pytest.mark.parametrize("rows", [(0, 64), (0, 5), (30, 31), (14, 50), (47, 64)])
@torch.inference_mode()
def test_context_of_some_rows_is_the_same(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor], rows: tuple[int, int]
) -> None:
    plain, fused = models
    image = torch.cat(frames)
    found = torch.cat((image[:, :, slice(*rows)], *fused.context(image, rows)), 1)
    close(found, plain.context(image)[:, :, slice(*rows)])


class Scarce:
    """A model that runs out of memory while more than a number of rows are made or contexts are kept."""

    def __init__(self, model: FusedDAIN, rows: int) -> None:
        self.model, self.rows = model, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def synthesise(self, first: FusedFeatures, second: FusedFeatures, *rest: Any) -> Tensor:
        if rest[-1] > self.rows or first.contexts or second.contexts:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.model.synthesise(first, second, *rest)


@torch.inference_mode()
def test_when_memory_runs_out_the_work_is_done_in_smaller_parts(
    models: tuple[DAIN, FusedDAIN], frames: tuple[Tensor, Tensor]
) -> None:
    cpu, time = torch.device("cpu"), torch.tensor(0.5)
    expected, _ = _stream(FusedStages(models[1], cpu, Budget(2**40)), frames, time)
    stages = FusedStages(cast(FusedDAIN, Scarce(models[1], 20)), cpu, Budget(2**40))
    (first, _), known = _stream(stages, frames, time)
    close(first, expected[0])
    # Frames that were made before are let go of what the new plan does not keep, and are of use still.
    assert stages.replanned >= 1 and all(frame.contexts == () for frame in known)
    again, _ = stages.synthesis(*known, stages.motion(*known), time)
    close(again, expected[0])
    assert stages.features(frames[0]).contexts == ()

    hopeless = FusedStages(cast(FusedDAIN, Scarce(models[1], 0)), cpu, Budget(2**40))
    with pytest.raises(FrameTooLargeError, match="128x64"):
        _stream(hopeless, frames, time)


def _stream(
    stages: FusedStages, frames: tuple[Tensor, Tensor], time: Tensor
) -> tuple[tuple[Tensor, Tensor], list[FusedFeatures]]:
    known = [stages.features(frame) for frame in frames]
    return stages.synthesis(known[0], known[1], stages.motion(known[0], known[1]), time), known


def test_what_counts_as_running_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("Tried to allocate"))
    assert is_out_of_memory(RuntimeError("CUDA out of memory: no room for a tensor (1, 2, 3, 4)"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_it_runs_what_it_can() -> None:
    cpu = torch.device("cpu")
    assert FusedDAIN.supports(ModelConfig(), cpu) and FusedDAIN.supports(CONFIG, cpu)
    assert not FusedDAIN.supports(replace(CONFIG, context_width=20), cpu)
    assert FusedDAIN.supports(ModelConfig.named("dain-lite"), cpu)
    assert FusedDAIN.supports(replace(CONFIG, flow_scale=2), cpu)


def test_tensors_are_found_in_tuples_and_dataclasses() -> None:
    values = [torch.full((1,), float(value)) for value in range(4)]
    motion = Motion((values[0], values[1]), (values[2], values[3]))
    doubled = map_tensors(lambda x: 2 * x, (motion,))
    assert [float(x) for x in tensors(doubled)] == [0, 2, 4, 6]
    with pytest.raises(TypeError, match="no tensors in float"):
        map_tensors(lambda x: x, 0.5)


EIGHT_BIT_CONFIG = replace(CONFIG, depth_narrow=32, context_width=32, rectify_width=32)


def calibrated(network: DAIN, frames: tuple[Tensor, Tensor]) -> None:
    seen = histograms(network, [frames])
    ranges = {name: (histogram.low, histogram.high) for name, histogram in seen.items()}
    Calibration("any", "", "max", 1, ranges, {}).apply(network)


@pytest.mark.parametrize("blocks", [("depth",), ("rectify",), ("context", "rectify")], ids=" ".join)
def test_eight_bits_are_close(frames: tuple[Tensor, Tensor], blocks: tuple[str, ...]) -> None:
    """Each tensor in a unit of its own, whatever size its numbers have."""
    assert FusedDAIN.eight_bit_blocks(EIGHT_BIT_CONFIG) == ("depth", "context", "rectify")
    torch.manual_seed(0)
    plain, source = DAIN(EIGHT_BIT_CONFIG).eval(), DAIN(EIGHT_BIT_CONFIG).eval()
    with torch.no_grad():
        plain.rectify.stem.weight.mul_(3000)  # of such numbers eight bits hold none
        plain.rectify.head.weight.div_(3000)
    source.load_state_dict(plain.state_dict())
    calibrated(source, frames)
    fused = FusedDAIN(source, torch.float32, blocks)
    layers_of_eight = [
        name
        for name, module in fused.named_modules()
        if isinstance(module, layers.SliceConv2d) and module.out_dtype == layers.EIGHT_BITS
    ]
    assert {name.split(".")[0] for name in layers_of_eight} == set(blocks)
    with torch.inference_mode():
        if blocks == ("depth",):
            expected, found = plain.log_depth(frames[0]), fused.log_depth(frames[0])
        else:
            one, two = (plain.features(frame) for frame in frames)
            made = plain.synthesise(one, two, plain.motion(one, two), 0.5)
            expected = made.output - made.blend
            first, second = (fused.features(frame) for frame in frames)
            time = torch.tensor(0.5)
            found = fused.synthesise(first, second, fused.motion(first, second), time) - made.blend
    assert float((found - expected).norm()) < 0.1 * float(expected.norm())


def test_without_a_calibration_one_convolution_has_eight_bits() -> None:
    fused = FusedDAIN(DAIN(EIGHT_BIT_CONFIG), torch.float32, ("rectify",))
    packed = [name for name, buffer in fused.named_buffers() if buffer.dtype == layers.EIGHT_BITS]
    assert packed == ["rectify.stem.weight"]
