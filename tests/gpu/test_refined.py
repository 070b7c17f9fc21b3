"""The refined network on a GPU: its fused front, half precision against float32 on a CPU, graphs against none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cuda_ext
from dain_core.evaluation.metrics import psnr
from dain_core.network.refined import RefinedDAIN
from dain_core.runtime.backends.refined import RefinedStages, _Plan
from dain_core.runtime.budget import Budget
from dain_core.training.refined import begin

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
if cuda_ext.backend() != "cuda":
    pytest.skip("the CUDA kernels are not built: python -m cuda_ext.build", allow_module_level=True)

GPU = torch.device("cuda:0")
CLOSE = {torch.float32: 65.0, torch.float16: 50.0, torch.bfloat16: 38.0}


def taught() -> RefinedDAIN:
    """With trained flow and depth; of what follows, layers that are silent at first say a little."""
    torch.manual_seed(0)
    model = begin(None).eval()
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.003)
    return model


def frames(height: int, width: int) -> tuple[Tensor, Tensor]:
    coarse = torch.rand((1, 3, 12, 16), generator=torch.Generator().manual_seed(3))
    large = torch.nn.functional.interpolate(coarse, (height, width + 32), mode="bicubic").clamp(0, 1)
    return large[..., 16 : 16 + width].contiguous(), large[..., 10 : 10 + width].contiguous()


@torch.inference_mode()
def interpolated(stages: RefinedStages, first: Tensor, second: Tensor, time: float) -> Tensor:
    one, two = (
        stages.features(image.to(GPU).contiguous(memory_format=torch.channels_last))
        for image in (first, second)
    )
    output, checksum = stages.synthesis(one, two, stages.motion(one, two), torch.full((), time, device=GPU))
    assert checksum.isfinite()
    return output.cpu().clamp(0, 1)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("size", [(65, 33), (270, 481)])
def test_a_gpu_is_close_to_a_cpu(dtype: torch.dtype, size: tuple[int, int]) -> None:
    first, second = frames(*size)
    with torch.inference_mode():
        expected = taught()(first, second, 0.3).output.clamp(0, 1)
    stages = RefinedStages(taught(), GPU, dtype, Budget())
    results = [interpolated(stages, first, second, 0.3) for _ in range(3)]  # plain, captured, replayed
    assert min(psnr(result, expected) for result in results) > CLOSE[dtype]


def test_large_frames_run_without_graphs_and_sizes_may_change() -> None:
    stages = RefinedStages(taught(), GPU, torch.float16, Budget())
    small = [interpolated(stages, *frames(128, 192), 0.5) for _ in range(2)]
    large = interpolated(stages, *frames(2160, 3840), 0.5)
    again = interpolated(stages, *frames(128, 192), 0.5)
    assert large.shape == (1, 3, 2160, 3840) and large.isfinite().all()
    assert psnr(again, small[1]) > 60
    stages.release()
    assert psnr(interpolated(stages, *frames(128, 192), 0.5), small[0]) > 60


def test_training_steps_as_a_graph_are_the_same_as_without() -> None:
    """Sums of atomics have no fixed order, so the same only nearly."""
    from dain_core.training.refined import Objective, Settings, trainable
    from dain_core.training.resident import Triplets
    from dain_core.training.steps import Step

    first, second = (frame.to(GPU).repeat(2, 1, 1, 1) for frame in frames(128, 192))
    batch = Triplets(first, (first + second) / 2, second, torch.full((2, 1, 1, 1), 0.5, device=GPU))
    losses = []
    for graph in (True, False):
        model = taught().to(GPU)
        weights = list(trainable(model).values())
        objective = Objective(model, Settings(1, flow_first=0.0), None).to(GPU)
        objective.enter(0.1)
        learn = Step(objective, weights, 1e-4, GPU)
        if graph:
            learn(batch)  # three steps before the capture, and its first replay
            losses.append([float(learn(batch)["loss"]) for _ in range(4)])
        else:
            for _ in range(4):
                learn.eager(batch)
            losses.append([float(learn.eager(batch)["loss"]) for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0][-1] < losses[0][0]


def test_within_little_memory_bands_make_the_same_frame() -> None:
    first, second = frames(2160, 3840)
    whole = RefinedStages(taught(), GPU, torch.float16, Budget())
    expected = interpolated(whole, first, second, 0.5)
    peaks = []
    for rows in (2160, 544):
        limit = whole._peak(_Plan(2160, 3840, rows))
        whole.release()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stages = RefinedStages(taught(), GPU, torch.float16, Budget(limit))
        assert psnr(interpolated(stages, first, second, 0.5), expected) > 70
        assert stages._plan == _Plan(2160, 3840, rows) and stages.replanned == 0
        peaks.append(torch.cuda.max_memory_allocated() - before)
        assert peaks[-1] < limit
    assert peaks[1] < 0.7 * peaks[0]
