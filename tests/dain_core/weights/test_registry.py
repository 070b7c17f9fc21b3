"""The registry: shipped models, a folder of a user's own, and what cannot be served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dain_core.errors import DainCoreError
from dain_core.runtime.engine import Interpolator
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


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DainCoreError, match="there is no folder .* of models"):
        registry(tmp_path / "absent")


def test_a_model_that_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match="no model is called 'film': choose one of dain, dain-lite"):
        Interpolator.load("film", device="cpu", models=registry())
