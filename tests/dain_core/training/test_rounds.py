"""The steps of a round follow each other, and a round that was ended goes on."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dain_core.training import rounds
from dain_core.training.batch import Batch, Source
from dain_core.training.config import TrainConfig
from dain_core.training.launch import launch
from dain_core.training.ranks import Ranks
from dain_core.training.rounds import finished, runs, train_all
from tests.tiny_training import TINY, Slides


@pytest.fixture
def configs(tmp_path: Path) -> list[TrainConfig]:
    """Those of a round, of the tiny network, a few steps each."""
    small = {"minutes": None, "steps": 2, "batch": 2, "crop": (64, 64), "precision": "fp32", "network": TINY}
    first, *others = runs(tmp_path / "data", tmp_path / "round", 20)
    # With other seeds, a step that begins anew has other weights than the last.
    *others, lite = [replace(config, **small, seed=1 + index) for index, config in enumerate(others)]
    return [replace(first, **small, init=None), *others, replace(lite, init=None)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose data were asked for; made data take their place."""
    names: list[str] = []

    def opened(config: TrainConfig, ranks: Ranks) -> Source:
        names.append(Path(config.out).name)
        return Slides(config.crop, ranks.device, ranks.seed(config.seed))

    monkeypatch.setattr(rounds, "open_data", opened)
    return names


def test_each_step_goes_on_from_the_last(configs: list[TrainConfig], asked: list[str]) -> None:
    train_all(configs, "cpu")
    assert asked == ["1-motion", "2-frame", "3-lite"]
    motion, frame = (load_file(Path(config.out) / "weights.safetensors") for config in configs[:2])
    assert not equal(motion, frame, "initScaleNets_filter.") and not equal(motion, frame, "rectifyNet.")
    assert equal(motion, frame, "depthNet.")
    assert all(finished(config) for config in configs)


def test_the_next_data_are_read_while_a_step_trains(
    configs: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = threading.Event()

    class Waiting(Slides):
        def sample(self, n: int) -> Batch:
            assert reading.wait(30), "nothing was read ahead"
            return super().sample(n)

    def opened(config: TrainConfig, ranks: Ranks) -> Source:
        if config.out.endswith("2-frame"):
            reading.set()
        return Waiting(config.crop, ranks.device, 0)

    monkeypatch.setattr(rounds, "open_data", opened)
    train_all(configs[:2], "cpu")


def test_a_round_that_was_ended_goes_on(
    configs: list[TrainConfig], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Slides):
        def sample(self, n: int) -> Batch:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().sample(n)

    made = rounds.open_data

    def ended(config: TrainConfig, ranks: Ranks) -> Source:
        made(config, ranks)
        return (Ended if config.out.endswith("2-frame") else Slides)(config.crop, ranks.device, 0)

    monkeypatch.setattr(rounds, "open_data", ended)
    with pytest.raises(
        SystemExit, match="2-frame was stopped before its time: the same command continues it"
    ):
        train_all(configs, "cpu")
    assert finished(configs[0]) and not finished(configs[1])

    asked.clear()
    monkeypatch.setattr(rounds, "open_data", made)
    train_all(configs, "cpu")
    assert asked == ["2-frame", "3-lite"]
    assert all(finished(config) for config in configs)


def test_a_round_takes_its_time_and_all_its_data_from_the_weights_that_ship_on(tmp_path: Path) -> None:
    round_ = runs(tmp_path / "data", tmp_path / "round", 20)
    assert sum(config.minutes or 0 for config in round_) == pytest.approx(20)
    before = [f"{config.out}/weights.safetensors" for config in round_]
    assert [config.init for config in round_] == ["dain", before[0], "dain-lite"]
    for config in round_:
        names, parts = zip(*(text.rsplit("=", 1) for text in config.data), strict=True)
        assert [Path(name).name for name in names] == ["pictures", "clips", "games"]
        assert sum(map(float, parts)) == pytest.approx(1)


def test_two_processes_stay_together_from_step_to_step(configs: list[TrainConfig]) -> None:
    launch(partial(train_all, [replace(config, data=("scenes",)) for config in configs[:2]], "cpu"), 2)
    assert all(finished(config) for config in configs[:2])


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], prefix: str) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one if key.startswith(prefix))
