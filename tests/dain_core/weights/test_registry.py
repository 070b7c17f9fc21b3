"""The registry: shipped models, a folder of a user's own, and what cannot be served."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from dain_core.errors import DainCoreError
from dain_core.network.networks import NETWORKS, Config, build, with_widths
from dain_core.runtime.backends import int8
from dain_core.runtime.calibration import CalibrationError
from dain_core.runtime.engine import Interpolator
from dain_core.weights.cli import weights
from dain_core.weights.files import SHIPPED, WeightsError, load_weights, save, shipped_path
from dain_core.weights.registry import registry


def test_shipped_models_are_there_without_a_folder() -> None:
    entries = registry()
    assert list(entries) == list(SHIPPED)
    assert all(entry.path == shipped_path(name) for name, entry in entries.items())


@pytest.mark.parametrize("layout", ["int8", "fp16", "fp32"])
def test_a_file_is_served_under_its_name(tmp_path: Path, layout: str) -> None:
    """As the network that its weights fit, however they are stored."""
    save(load_weights("dain-lite"), tmp_path / "film-1.2.safetensors", layout)
    (tmp_path / "notes.txt").touch()
    entries = registry(tmp_path)
    assert list(entries) == [*SHIPPED, "film-1.2"]
    assert entries["film-1.2"].network == "dain-lite"
    engine = Interpolator.load("film-1.2", device="cpu", models=entries)
    assert engine.model_name == "film-1.2"
    frame = torch.rand(1, 3, 16, 16)
    expected = Interpolator.load("dain-lite", device="cpu").interpolate(frame, frame, [0.5])
    assert float((engine.interpolate(frame, frame, [0.5]) - expected).abs().mean()) < 0.01


def _narrow_file(path: Path, layout: str = "fp16") -> Config:
    config = with_widths(NETWORKS["dain-lite"], {"flow_dense.0": 16, "kernel_widths.3": 32})
    save(build(config).state_dict(), path, layout, config)
    return config


@pytest.mark.parametrize("layout", ["int8", "fp16"])
def test_a_file_of_a_narrower_network_says_so_itself(tmp_path: Path, layout: str) -> None:
    """It is served, named to the engine, verified and converted like any other."""
    path, other = tmp_path / "thin.safetensors", tmp_path / "other.safetensors"
    config = _narrow_file(path, layout)
    frame = torch.rand(1, 3, 16, 16)
    for engine in (
        Interpolator.load("thin", device="cpu", models=registry(tmp_path)),
        Interpolator.load("dain-lite", device="cpu", weights=path),
    ):
        assert engine.interpolate(frame, frame, [0.5]).shape == frame.shape
    assert CliRunner().invoke(weights, ["verify", str(path)]).exit_code == 0
    answer = CliRunner().invoke(weights, ["convert", str(path), str(other), "--layout", "fp16"])
    assert answer.exit_code == 0, answer.output
    assert registry(tmp_path)["other"].config == config
    answer = CliRunner().invoke(weights, ["mean", f"{path}=1", f"{other}=1", str(other)])
    assert answer.exit_code == 0, answer.output
    assert registry(tmp_path)["other"].config == config


def test_a_file_that_is_named_to_the_engine_lies_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calibration is looked for beside it, however its path is given."""
    monkeypatch.setattr(int8, "has_instructions", lambda: True)
    path = tmp_path / "thin.safetensors"
    _narrow_file(path)
    for given in (path, str(path)):
        with pytest.raises(CalibrationError, match=re.escape(f"at {tmp_path / 'thin.calibration.json'}")):
            Interpolator.load("dain-lite", device="cpu", precision="int8", weights=given)


def test_a_narrower_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thin.safetensors"
    _narrow_file(path)
    with pytest.raises(
        WeightsError, match="does not fit dain-refined: its network is a dain. Choose that model"
    ):
        Interpolator.load("dain-refined", device="cpu", weights=path)


def test_a_configuration_that_does_not_fit_its_weights_is_refused(tmp_path: Path) -> None:
    config = with_widths(NETWORKS["dain-lite"], {"flow_dense.0": 16})
    save(load_weights("dain-lite"), tmp_path / "odd.safetensors", "fp16", config)
    with pytest.raises(WeightsError, match="weights of no network that this version knows"):
        registry(tmp_path)


def test_a_configuration_of_a_later_version_is_refused(tmp_path: Path) -> None:
    header = {"dain.config": '{"network": "dain", "wings": 2}'}
    save_file(load_weights("dain-lite"), tmp_path / "odd.safetensors", header)
    with pytest.raises(WeightsError, match="does not know: the configuration has the unknown field wings"):
        registry(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dain.safetensors", "dain is the name of a model that comes with the project. Rename it"),
        ("auto.safetensors", "auto is the name"),
        ("My Film.safetensors", "cannot be served under its name: use up to 64 small letters"),
    ],
)
def test_a_name_that_cannot_be_served_is_refused(tmp_path: Path, name: str, message: str) -> None:
    shutil.copy(shipped_path("dain-lite"), tmp_path / name)
    with pytest.raises(WeightsError, match=message):
        registry(tmp_path)


def test_a_file_that_fits_no_network_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match="weights of no network that this version knows"):
        registry(tmp_path)
    (tmp_path / "odd.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="no readable .safetensors file"):
        registry(tmp_path)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            None,
            "film.safetensors holds the int8 weight [a-zA-Z0-9_.]+ without its scale: convert the original",
        ),
        (torch.ones(5), r"film.safetensors holds a scale of shape \(5,\) for the int8 weight"),
        (torch.ones(5, 1, 1, 1), r"holds a scale of shape \(5, 1, 1, 1\) for the int8 weight"),
    ],
)
def test_an_int8_file_without_scales_that_fit_is_refused(
    tmp_path: Path, scale: torch.Tensor | None, message: str
) -> None:
    """From its header alone: a worker would find out in the first job. `dain weights verify` says the same."""
    state = load_file(shipped_path("dain-lite"))
    key = next(key for key, value in state.items() if value.dtype == torch.int8)
    del state[f"{key}.scale"]
    path = tmp_path / "film.safetensors"
    save_file(state if scale is None else {**state, f"{key}.scale": scale}, path)
    with pytest.raises(WeightsError, match=message):
        registry(tmp_path)
    answer = CliRunner().invoke(weights, ["verify", str(path), "--model", "dain-lite"])
    assert answer.exit_code == 1 and re.search(message, answer.output)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_loaded(tmp_path: Path, number: float) -> None:
    state = load_weights("dain-lite")
    key = next(key for key, value in state.items() if value.dim() == 4)
    path = tmp_path / "film.safetensors"
    save({**state, key: torch.full_like(state[key], number)}, path, "fp16")
    with pytest.raises(WeightsError, match=f"not finite in 1 of {len(state)} weights, {re.escape(key)}"):
        Interpolator.load("film", device="cpu", models=registry(tmp_path))
    answer = CliRunner().invoke(weights, ["verify", str(path), "--model", "dain-lite"])
    assert answer.exit_code == 1 and "holds numbers that are not finite" in answer.output


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DainCoreError, match="there is no folder .* of models"):
        registry(tmp_path / "absent")


def test_a_model_that_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match="no model is called 'film': choose one of dain, dain-lite"):
        Interpolator.load("film", device="cpu", models=registry())
