"""`dain train`: options become settings, and errors sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dain_core.training import cli, command
from dain_core.training.checkpoints import Run
from dain_core.training.config import TrainConfig
from dain_core.training.errors import TrainingError
from tests.tiny_training import settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The settings of runs, which are not run."""
    configs: list[TrainConfig] = []

    def note(config: TrainConfig, *_: Any, **__: Any) -> None:
        configs.append(config)

    monkeypatch.setattr(command, "run_training", note)
    return configs


def dain_train(*arguments: str) -> Result:
    return CliRunner().invoke(cli.train, arguments, catch_exceptions=False)


def test_options_become_settings(started: list[TrainConfig], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    result = dain_train(
        *("--data", "clips=0.3", "--data", "scenes", "--out", out, "--crop", "320x448", "--batch", "24"),
        *("--parts", "flow,kernels", "--steps", "10", "--lr", "3e-4", "--lr", "kernels=1e-4"),
        *("--weight", "flow=0.05", "--precision", "fp16", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    assert started == [
        TrainConfig(
            data=("clips=0.3", "scenes"),
            out=out,
            crop=(320, 448),
            batch=24,
            parts=("flow", "kernels"),
            steps=10,
            rate=3e-4,
            rates={"kernels": 1e-4},
            weights={"flow": 0.05},
            precision="fp16",
        )
    ]
    config = started[0]
    assert config.init == "dain"
    assert config.rate_of("flow.pyramid.0") == 3e-4
    assert config.rate_of("kernels.up.0") == 1e-4
    assert config.rate_of("rectify.stem.weight") < config.rate_of("rectify.blocks.0.conv1.weight")


def test_what_is_started_from(started: list[TrainConfig], tmp_path: Path) -> None:
    common = ("--data", "scenes", "--out", str(tmp_path), "--steps", "1", "--device", "cpu")
    for more in ((), ("--init", "none"), ("--model", "dain-lite"), ("--init", "mine.safetensors")):
        assert dain_train(*common, *more).exit_code == 0
    unmade = "dain-lite" if "dain-lite" in command.SHIPPED else None
    assert [config.init for config in started] == ["dain", None, unmade, "mine.safetensors"]


def test_a_run_goes_on_with_its_settings_but_for_those_given(
    started: list[TrainConfig], tmp_path: Path
) -> None:
    config = settings(tmp_path, batch=3)
    Run(tmp_path).start(config)
    assert dain_train("--out", str(tmp_path), "--resume", "--steps", "50", "--device", "cpu").exit_code == 0
    assert started == [settings(tmp_path, batch=3, steps=50)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "1"), "nothing to learn from"),
        (("--data", "scenes"), "say how long to train"),
        (("--data", "scenes", "--steps", "1", "--crop", "100x64"), "multiples of 16"),
        (("--data", "scenes", "--steps", "1", "--crop", "large"), "'large' is not HEIGHTxWIDTH"),
        (("--data", "scenes", "--steps", "1", "--precision", "fp61"), "'fp61' is not one of"),
        (("--data", "scenes", "--steps", "1", "--parts", "flow,colour"), "'colour' is not a part"),
        (("--data", "scenes", "--steps", "1", "--lr", "fast=1"), "names none of flow"),
        (("--data", "scenes", "--steps", "1", "--weight", "0.1"), "names none of frame"),
        (
            ("--data", "scenes", "--steps", "1", "--weight", "frame=0"),
            "kernels can learn from the frame only",
        ),
        (("--resume",), "there is no run in"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    started: list[TrainConfig], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = dain_train("--out", str(tmp_path), *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert not started


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "{}/nowhere"), "nowhere is not a folder"),
        (("--data", "scenes", "--init", "{}/none.safetensors"), "there are no weights at"),
        (("--data", "scenes", "--out", "/proc/nothing"), "cannot make the folder /proc/nothing"),
        (("--data", "scenes", "--device", "gpu"), "no device is called 'gpu'"),
    ],
)
def test_what_cannot_be_read_or_written_is_named(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [argument.format(tmp_path) for argument in arguments]
    result = CliRunner().invoke(
        cli.train,
        ["--out", str(tmp_path / "run"), "--steps", "1", "--device", "cpu", "--crop", "64x64", *given],
    )
    assert result.exit_code == 1
    assert result.output.startswith("Starting PyTorch.\nError: ")
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_unknown_precision_is_refused_in_code_too(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no precision 'fp61'"):
        settings(tmp_path, precision="fp61")
