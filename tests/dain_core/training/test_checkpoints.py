"""A run's folder: nothing half-written, nothing of another network, sentences for what goes wrong."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dain_core.training.checkpoints import CheckpointError, Run
from dain_core.training.config import TrainConfig
from tests.tiny_training import TINY, settings


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.start(settings(run.folder))
    return run


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_settings_come_back_as_they_were(run: Run) -> None:
    changed = settings(run.folder, rates={"rectify": 1e-4}, weights={"flow": 0.1}, minutes=2.5)
    assert TrainConfig.from_json(changed.to_json()) == changed
    assert run.config() == settings(run.folder)


def test_a_checkpoint_comes_back_as_it_was(run: Run) -> None:
    run.save({"steps": 3, "weights": torch.arange(4.0)}, TINY)
    state = run.load(TINY)
    assert state["steps"] == 3
    assert state["weights"].tolist() == [0, 1, 2, 3]


def test_a_full_disk_leaves_the_last_good_checkpoint(run: Run) -> None:
    run.save({"steps": 1}, TINY)
    with (
        full_disk(65536),
        pytest.raises(CheckpointError, match="cannot write .*checkpoint.pt.*last saved.*room"),
    ):
        run.save({"steps": 2, "weights": torch.zeros(100_000)}, TINY)
    assert run.load(TINY)["steps"] == 1
    assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoint.pt", "config.json", "previews"]


def test_a_full_disk_leaves_the_last_good_weights(run: Run) -> None:
    run.export({"a": torch.ones(2)})
    before = run.weights.read_bytes()
    with full_disk(65536), pytest.raises(CheckpointError, match="cannot write .*weights.safetensors"):
        run.export({"a": torch.zeros(100_000)})
    assert run.weights.read_bytes() == before


def test_a_checkpoint_of_another_architecture_is_refused(run: Run) -> None:
    run.save({"steps": 1}, TINY)
    with pytest.raises(
        CheckpointError, match="another architecture .context_width is 4, not 6.*name the model"
    ):
        run.load(replace(TINY, context_width=6))


def test_what_is_no_checkpoint_is_refused(run: Run) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        run.load(TINY)
    run.save({"weights": torch.zeros(1000)}, TINY)
    whole = run.checkpoint.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"something else"):
        run.checkpoint.write_bytes(content)
        with pytest.raises(CheckpointError, match="checkpoint.pt is damaged.*--init"):
            run.load(TINY)
    torch.save([1, 2], run.checkpoint)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        run.load(TINY)


def test_a_run_is_not_begun_twice(run: Run) -> None:
    run.start(settings(run.folder))  # without a checkpoint there is nothing to lose
    run.save({"steps": 1}, TINY)
    with pytest.raises(CheckpointError, match="holds a run already.*--resume.*--out"):
        run.start(settings(run.folder))


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(CheckpointError, match="cannot make the folder .*taken: .*--out"):
        Run(taken).start(settings(taken))


def test_settings_that_cannot_be_read_are_named(run: Run, tmp_path: Path) -> None:
    (run.folder / "config.json").write_text('{"network": {}, "colour": "red"}')
    with pytest.raises(CheckpointError, match="config.json cannot be read.*colour"):
        run.config()
    with pytest.raises(CheckpointError, match="there is no run in .*elsewhere"):
        Run(tmp_path / "elsewhere").config()


def test_the_log_forgets_what_comes_after_a_step(run: Run) -> None:
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 0.5})
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a process that died
    run.rewind_log(2)
    assert [entry["step"] for entry in run.entries()] == [1, 2]
