"""`dain compress quantise`: a calibration from real frames, and a sentence where there can be none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from dain_core.compression import quantise as module
from dain_core.compression.cli import compress
from dain_core.evaluation.metrics import psnr
from dain_core.export.write import real_pair
from dain_core.runtime.backends import int8
from dain_core.runtime.calibration import CalibrationError, load_calibration
from dain_core.runtime.devices import fastest_on_cpu
from dain_core.runtime.engine import Interpolator
from dain_core.weights.registry import registry

needs_int8 = pytest.mark.skipif(not int8.has_instructions(), reason="needs a CPU with VNNI or AMX")


def quantise(models: Path, data: Path, *arguments: str, model: str = "own") -> Result:
    command = ["quantise", model, "--data", str(data), "--models", str(models), *arguments]
    return CliRunner().invoke(compress, command)


def load(models: Path, precision: str = "int8", **given: object) -> Interpolator:
    return Interpolator.load("own", device="cpu", precision=precision, models=registry(models), **given)


@needs_int8
def test_a_calibrated_model_runs_in_eight_bits(models: Path, frames: Path) -> None:
    with pytest.raises(CalibrationError, match="no calibration of own .* `dain compress quantise own --data"):
        load(models)
    done = quantise(models, frames, "--pairs", "1")
    assert done.exit_code == 0 and "on 1 pairs" in done.output, done.output
    content = json.loads((models / "own.calibration.json").read_text())
    assert content["method"] == "max" and content["pairs"] == 1
    assert content["ranges"]["depth.0"] == [0.0, pytest.approx(1.0, abs=0.1)]  # an image
    assert "rectify.stem" in content["channels"] and len(content["channels"]["rectify.stem"]) == 149

    first, second = (frame[..., :64, :96] for frame in real_pair())
    exact = load(models, "fp32").interpolate(first, second, [0.5])
    whole = load(models)
    assert any(isinstance(module, int8.Int8Conv2d) for module in whole._stages.model.modules())  # type: ignore[attr-defined]
    assert 45 < psnr(whole.interpolate(first, second, [0.5]), exact) < 90
    floats = load(models, fastest_on_cpu()).interpolate(first, second, [0.5])
    assert torch.equal(load(models, eight_bits=()).interpolate(first, second, [0.5]), floats)


def test_the_calibration_of_other_weights_is_refused(models: Path, frames: Path) -> None:
    assert quantise(models, frames, "--pairs", "1").exit_code == 0
    entry = registry(models)["own"]
    assert load_calibration(entry).model == "own"
    with entry.path.open("ab") as file:
        file.write(b" ")
    with pytest.raises(
        CalibrationError, match="belongs to other weights of own .* `dain compress quantise own"
    ):
        load_calibration(entry)
    (models / "own.calibration.json").write_text('{"kind": "other"}')
    with pytest.raises(CalibrationError, match="cannot be read .it is no calibration.*makes it from"):
        load_calibration(entry)


def test_what_cannot_be_calibrated_is_said(models: Path, frames: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no frame")
    for data, model, message in (
        (empty, "own", "holds no video, no folder of frames"),
        (tmp_path / "nowhere", "own", "there is no such file or folder"),
        (frames, "owl", "no model is called 'owl': choose one of dain,"),
    ):
        done = quantise(models, data, model=model)
        assert done.exit_code == 1 and message in done.output, done.output
    (empty / "broken.mp4").write_bytes(b"no video")
    done = quantise(models, empty)
    assert done.exit_code == 1 and "broken.mp4" in done.output and "Traceback" not in done.output
    assert not (models / "own.calibration.json").exists()


def test_a_place_that_cannot_be_written_to_is_said_before_the_work(
    models: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "place_of", lambda entry: Path("/proc/own.calibration.json"))
    monkeypatch.setattr(module, "calibrate", lambda *given: pytest.fail("it calibrates"))
    done = quantise(models, frames)
    assert done.exit_code == 1 and "cannot write /proc/own.calibration.json" in done.output, done.output
