"""Training on a GPU, in every precision: it learns no less than float32 does, in less memory; it goes on where it was.

pytest --noconftest tests/gpu/test_training.py needs what dain train needs.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cuda_ext

if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
if cuda_ext.backend() != "cuda":
    pytest.skip("the CUDA kernels are not built: python -m cuda_ext.build", allow_module_level=True)
pytest.importorskip("av")

from dain_core.network.model import DAIN, ModelConfig
from dain_core.training.batch import Batch
from dain_core.training.checkpoints import Run
from dain_core.training.config import TrainConfig
from dain_core.training.loop import prepare, train
from dain_core.training.precision import LEVELS
from dain_core.training.ranks import Ranks
from dain_core.training.trainer import Trainer
from tests.tiny_training import Slides, settings, slides

CUDA = torch.device("cuda", 0)
MIXED = [name for name in LEVELS if name != "fp32"]
STEPS = 40


def full_size(**changes: object) -> TrainConfig:
    """The whole network from nothing, so that there is much to learn."""
    defaults = {"network": ModelConfig(), "init": None, "batch": 4, "crop": (192, 192)}
    return settings(Path("unused"), **(defaults | changes))


def learn(precision: str, steps: int, seed: int = 0) -> tuple[Trainer, list[float], float]:
    """The trainer after so many steps, the loss of each, and the peak of their memory in bytes."""
    torch.manual_seed(seed)
    config = full_size(precision=precision)
    source = Slides(config.crop, CUDA, 1)
    trainer = prepare(config, Ranks(0, 1, CUDA), source, fresh=True)
    gc.collect()  # what an earlier run has left
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    losses = [trainer.step([source.sample(config.batch)], k / steps)["loss"] for k in range(steps)]
    curve = [float(total / count) for total, count in losses]
    return trainer, curve, torch.cuda.max_memory_allocated()


@pytest.fixture(scope="module")
def exact() -> tuple[float, float]:
    """The loss that float32 comes to, the larger of two runs from different weights, and the memory that it takes."""
    runs = [learn("fp32", STEPS, seed) for seed in (0, 1)]
    return max(late(curve) for _, curve, _ in runs), runs[0][2]


def late(curve: Sequence[float]) -> float:
    """The mean loss of a run's second half."""
    return statistics.fmean(curve[STEPS // 2 :])


@pytest.mark.parametrize("precision", MIXED)
def test_less_precision_learns_no_less_in_less_memory(precision: str, exact: tuple[float, float]) -> None:
    _, curve, peak = learn(precision, STEPS)
    loss, larger = exact
    assert late(curve) < statistics.fmean(curve[: STEPS // 2])
    assert late(curve) < 1.1 * loss
    assert peak < 0.9 * larger


@pytest.mark.parametrize("precision", LEVELS)
def test_a_step_does_not_wait_for_the_device(precision: str) -> None:
    trainer, _, _ = learn(precision, 3)
    batch = Slides((192, 192), CUDA, 2).sample(4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step([batch], 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_gradients_are_those_of_the_cpu() -> None:
    """The whole of the tiny network, in float32 without TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    gradients: list[dict[str, Tensor]] = []
    batch = Slides((128, 128), torch.device("cpu"), 3).sample(2)
    for device in (torch.device("cpu"), CUDA):
        torch.manual_seed(0)
        config = settings(Path("unused"), crop=(128, 128))
        trainer = prepare(
            config, Ranks(0, 1, torch.device("cpu")), Slides((128, 128), torch.device("cpu"), 0), fresh=True
        )
        objective = trainer.objective.to(device)
        loss, _ = objective(batch.to(device), 0.0)
        loss.backward()
        named = objective.model.named_parameters()
        gradients.append({name: weight.grad.cpu() for name, weight in named if weight.grad is not None})
    on_cpu, on_gpu = gradients
    assert on_cpu.keys() == on_gpu.keys()
    off = {
        name: float((on_gpu[name] - on_cpu[name]).norm() / on_cpu[name].norm().clamp(min=1e-9))
        for name in on_cpu
    }
    assert statistics.median(off.values()) < 1e-3
    assert {name: error for name, error in off.items() if error > 0.1} == {}


@pytest.mark.parametrize("precision", LEVELS)
def test_a_run_goes_on_where_it_was(tmp_path: Path, precision: str) -> None:
    """Sums on a GPU have no fixed order, so not to the last bit."""
    changes = {"precision": precision, "crop": (128, 128), "steps": 12, "log_every": 1, "save_every": 6}
    whole, parted = Run(tmp_path / "whole"), Run(tmp_path / "parted")
    train(settings(whole.folder, **changes), slides, device="cuda")

    class Interrupting(Slides):
        asked = 0

        def sample(self, n: int) -> Batch:
            self.asked += 1
            if self.asked == 9:
                raise KeyboardInterrupt
            return super().sample(n)

    config = settings(parted.folder, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(config, lambda *_: Interrupting((128, 128), CUDA, 0), device="cuda")
    train(config, slides, resume=True, device="cuda")
    expected, found = whole.entries(), parted.entries()
    assert [entry["step"] for entry in found] == list(range(1, 13))
    assert found[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.05)
    assert DAIN(config.network).load_state_dict(torch.load(parted.checkpoint)["trainer"]["model"])
