"""Runs of a tiny network: they learn, end when told, go on where they were, and say what went wrong."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dain_core.training.batch import Batch, Source
from dain_core.training.checkpoints import CheckpointError, Run
from dain_core.training.config import TrainConfig
from dain_core.training.errors import TrainingError
from dain_core.training.launch import launch
from dain_core.training.loop import LateCheck, train
from dain_core.training.precision import NonFiniteError
from dain_core.training.ranks import Ranks
from dain_core.weights.files import load_weights
from tests.tiny_training import TINY, Slides, settings, slides, train_quietly

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tensors(tree: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors in a tree of lists and dicts, by where they are."""
    if isinstance(tree, Tensor):
        return {path: tree}
    items = (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    )
    return {name: leaf for key, value in items for name, leaf in tensors(value, f"{path}/{key}").items()}


def assert_same_run(first: Run, second: Run) -> None:
    """To the last bit."""
    one, two = (tensors(run.load(TINY)) for run in (first, second))
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert first.weights.read_bytes() == second.weights.read_bytes()


def test_a_run_learns_and_leaves_what_others_need(tmp_path: Path) -> None:
    class Same(Slides):
        """One batch again and again: a network that learns at all learns that."""

        def sample(self, n: int) -> Batch:
            self._random.manual_seed(1)
            return super().sample(n)

    config = settings(tmp_path, steps=12, rate=1e-3, parts=("kernels", "rectify"))
    last = train(config, lambda *_: Same((64, 64), CPU, 0), device="cpu")
    run = Run(tmp_path)
    entries = run.entries()
    assert [entry["step"] for entry in entries] == list(range(1, 13))
    assert entries[-1] == last
    assert last["loss"] < 0.9 * entries[0]["loss"]
    assert {"psnr_output_real", "psnr_blend_synthetic", "rate", "samples_per_second"} <= last.keys()
    load_weights(run.weights, config.network)
    picture = (run.previews / "0000012.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_killed_and_resumed_is_as_if_it_had_not_been(tmp_path: Path) -> None:
    changes = {"steps": 5, "save_every": 3, "batch": 1}
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    train(settings(whole.folder, **changes), slides, device="cpu")
    config = settings(killed.folder, **changes)
    victim = subprocess.run(
        [sys.executable, "-m", "tests.tiny_training"],
        input=config.to_json(),
        text=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert victim.returncode == -signal.SIGKILL
    assert killed.load(config.network)["trainer"]["steps"] == 3
    assert [entry["step"] for entry in killed.entries()] == [1, 2, 3, 4]
    train(config, slides, resume=True, device="cpu")
    assert [entry["step"] for entry in killed.entries()] == [1, 2, 3, 4, 5]
    assert_same_run(whole, killed)


def test_half_weights_are_resumed_exactly(tmp_path: Path) -> None:
    changes = {"precision": "fp16-master", "parts": ("kernels",), "save_every": 1, "batch": 1, "steps": 3}
    whole, parted = Run(tmp_path / "whole"), Run(tmp_path / "parted")
    train(settings(whole.folder, **changes), slides, device="cpu")
    config = settings(parted.folder, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(config, lambda *_: Interrupting((64, 64), CPU, 0), device="cpu")
    train(config, slides, resume=True, device="cpu")
    assert_same_run(whole, parted)


class Interrupting(Slides):
    """Fails after the checkpoint of step 2, on the batch of step 3."""

    asked = 0

    def sample(self, n: int) -> Batch:
        self.asked += 1
        if self.asked == 4:  # the first is what the new weights are made by
            raise KeyboardInterrupt
        return super().sample(n)


def test_a_signal_ends_a_run_with_all_saved(tmp_path: Path) -> None:
    class Signalling(Slides):
        asked = 0

        def sample(self, n: int) -> Batch:
            self.asked += 1
            if self.asked == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().sample(n)

    before = signal.getsignal(signal.SIGTERM)
    config = settings(tmp_path, steps=50, parts=("rectify",), batch=1)
    train(config, lambda *_: Signalling((64, 64), CPU, 0), device="cpu")
    assert signal.getsignal(signal.SIGTERM) == before
    run = Run(tmp_path)
    assert run.load(config.network)["trainer"]["steps"] == 2
    assert run.weights.exists()


def test_a_run_of_minutes_ends_in_time_with_its_rate_down(tmp_path: Path) -> None:
    config = settings(tmp_path, steps=None, minutes=1 / 60, parts=("rectify",), batch=1)
    train(config, slides, device="cpu")
    entries = Run(tmp_path).entries()
    assert entries
    assert all(entry["progress"] == pytest.approx(entry["seconds"]) for entry in entries)
    assert config.progress(10**6, 30.0) == 1
    both = settings(tmp_path, steps=100, minutes=1.0)
    assert both.progress(50, 6.0) == 0.5
    assert both.progress(50, 48.0) == 0.8


def test_two_processes_learn_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    initial = tmp_path / "initial"
    train(settings(initial, steps=1, batch=1), slides, device="cpu")
    changes = {"init": str(Run(initial).weights), "steps": 3}

    def both(config: TrainConfig, ranks: Ranks) -> Source:
        halves = [slides(config, replace(ranks, index=index)) for index in (0, 1)]

        class Both(Slides):
            def sample(self, n: int) -> Batch:
                return Batch.join([half.sample(n // 2) for half in halves])

        return Both(config.crop, ranks.device, 0)

    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    train(settings(one.folder, batch=4, **changes), both, device="cpu")
    launch(partial(train_quietly, settings(two.folder, batch=2, **changes)), 2)
    for ours, theirs in zip(two.entries(), one.entries(), strict=True):
        for name in ("loss", "frame", "flow", "epe", "psnr_output_real", "gradient_flow", "gradient_rectify"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3), name


class Spoilt(Slides):
    """Gives what is not finite in the third batch."""

    asked = 0

    def sample(self, n: int) -> Batch:
        self.asked += 1
        batch = super().sample(n)
        if self.asked == 4:
            batch.middle[0, 0, 0, 0] = math.nan
        return batch


def test_bad_data_is_named_with_its_step(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="step 3: `middle` of the training data is not finite.*--lr"):
        train(settings(tmp_path, parts=("rectify",)), lambda *_: Spoilt((64, 64), CPU, 0), device="cpu")


def test_a_network_that_overflows_is_named_by_its_module(tmp_path: Path) -> None:
    class Loud(Slides):
        """Finite, but not for long."""

        def sample(self, n: int) -> Batch:
            batch = super().sample(n)
            batch.first.fill_(3e38)
            return batch

    train(settings(tmp_path / "good", steps=1, batch=1), slides, device="cpu")
    config = settings(tmp_path / "bad", parts=("rectify",), init=str(Run(tmp_path / "good").weights))
    with pytest.raises(
        NonFiniteError, match=r"step 1: the output of (depth|context|flow)\.\S+ is not finite.*--lr"
    ):
        train(config, lambda *_: Loud((64, 64), CPU, 0), device="cpu")


class Patient:
    """Counts how often a step is explained."""

    steps = explained = 0

    def explain(self, batches: list[Batch], progress: float, step: int) -> None:
        self.explained = step


@pytest.mark.parametrize(("allowed", "explained"), [(0, 2), (2, 6), (3, 0)])
def test_steps_may_be_left_out_while_the_scale_adapts(allowed: int, explained: int) -> None:
    trainer = Patient()
    late = LateCheck(trainer, allowed)  # type: ignore[arg-type]
    for finite in (True, False, True, False, False, False, True, True):
        trainer.steps += 1
        late.add(torch.tensor(finite), [], 0.5)
        if trainer.explained:
            break
    assert trainer.explained == explained
    if not explained:
        late.look(0)
        assert late.skipped == 4


def test_resuming_with_other_parts_or_without_a_run_is_refused(tmp_path: Path) -> None:
    train(settings(tmp_path, steps=1, parts=("rectify",), batch=1), slides, device="cpu")
    with pytest.raises(TrainingError, match="trained rectify: resume with the same parts"):
        train(settings(tmp_path, parts=("kernels",)), slides, resume=True, device="cpu")
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(settings(tmp_path), slides, device="cpu")
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        train(settings(tmp_path / "none"), slides, resume=True, device="cpu")
