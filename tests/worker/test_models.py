"""The models of a worker: which there are, and what they share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import service
from dain_core.runtime.backends.onnx import NotExportedError
from dain_core.weights.files import SHIPPED, WeightsError, shipped_path
from service.settings import Settings
from worker import main


def test_all_models_of_a_worker_share_one_budget(tmp_path: Path) -> None:
    models = main.load(Settings(state_dir=tmp_path, device="cpu", model="dain-lite", max_ram_bytes=2**30))
    other = models.named("dain")
    assert models.default.model_name == "dain-lite" and other.model_name == "dain"
    assert models.named("dain") is other
    assert other._budget is models.default._budget is other._exact._budget
    assert other._budget.limit == 2**30


def test_a_worker_serves_a_folder_of_models(tmp_path: Path) -> None:
    """And says so: GET /workers lists what the records say, and a job may name what is listed."""
    shutil.copy(shipped_path("dain-lite"), tmp_path / "film.safetensors")
    models = main.load(Settings(state_dir=tmp_path, device="cpu", model="film", models=tmp_path))
    assert (
        models.default.model_name == "film"
        and models.default._source.config == models.named("dain-lite")._source.config
    )
    record = main.describe_worker(models)
    assert record.version == service.__version__
    assert record.model == "film" and record.models == [*SHIPPED, "film"]


def test_a_folder_of_models_that_cannot_be_served_ends_the_worker_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "film.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"film\.safetensors is no readable \.safetensors file"):
        main.load(Settings(state_dir=tmp_path, device="cpu", models=tmp_path))


def test_a_worker_that_cannot_serve_what_it_should_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worker.main"]
    given = {
        "DAIN_STATE_DIR": str(tmp_path),
        "DAIN_REDIS_URL": f"unix://{tmp_path}/none",
        "DAIN_DEVICE": "cpu",
    }
    environment = {**os.environ, **given, "DAIN_MODELS": str(tmp_path / "absent")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"there is no folder {tmp_path / 'absent'} of models: make it, or name another. Nothing was started.\n"
    )


def test_a_worker_on_onnxruntime_offers_what_is_exported(tmp_path: Path, exports: Path) -> None:
    settings = Settings(state_dir=tmp_path, device="cpu", backend="onnxruntime")
    with pytest.raises(
        NotExportedError, match=r"no export of dain-lite in .*/exports/dain-lite: `dain export onnx"
    ):
        main.load(settings)
    settings.exports.symlink_to(exports)
    models = main.load(settings)
    record = main.describe_worker(models)
    assert (record.backend, record.models) == ("onnxruntime", ["dain-lite"])
