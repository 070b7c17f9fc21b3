"""`dain compress adapt`: trains where eight bits lose much, and only there."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner, Result

from dain_core.compression.cli import compress
from dain_core.runtime.calibration import load_calibration
from dain_core.weights.files import load_weights
from dain_core.weights.registry import registry


def adapt(models: Path, out: str, *arguments: str) -> Result:
    tiny = ["--steps", "1", "--batch", "1", "--crop", "64", "64", "--device", "cpu", "--models", str(models)]
    return CliRunner().invoke(compress, ["adapt", "own", str(models / out), *tiny, *arguments])


def test_a_model_that_loses_much_is_trained(models: Path) -> None:
    done = adapt(models, "adapted.safetensors", "--loss", "-inf", "--rate", "1e-3", "--precision", "fp8")
    assert done.exit_code == 0 and "trained" in done.output, done.output
    entry = registry(models)["adapted"]
    assert load_calibration(entry).model == "adapted"
    before, after = load_weights("dain-lite"), load_weights(entry.weights, entry.config)
    moved = {key for key in before if not torch.equal(before[key].half(), after[key].half())}
    assert any("rectify" in key.lower() for key in moved)


def test_a_model_that_loses_little_is_left_alone(models: Path) -> None:
    done = adapt(models, "adapted.safetensors", "--loss", "50")
    assert done.exit_code == 0 and "not above 50.0: nothing was trained" in done.output, done.output
    assert [path.name for path in models.iterdir()] == ["own.safetensors"]


def test_what_cannot_be_done_is_said(models: Path) -> None:
    done = adapt(models, "adapted.pth")
    assert done.exit_code == 2 and "must end in .safetensors" in done.output
    done = CliRunner().invoke(compress, ["adapt", "owl", str(models / "x.safetensors")])
    assert done.exit_code == 1 and "no model is called 'owl'" in done.output
    done = CliRunner().invoke(
        compress, ["adapt", "dain-refined", str(models / "x.safetensors"), "--precision", "fp8"]
    )
    assert done.exit_code == 1 and "fp8 computes no block of dain-refined in eight bits" in done.output
