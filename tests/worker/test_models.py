"""The models of a worker: which there are, and what they share."""

from __future__ import annotations

from pathlib import Path

from service.settings import Settings
from worker import main


def test_all_models_of_a_worker_share_one_budget(tmp_path: Path) -> None:
    models = main.load(Settings(state_dir=tmp_path, device="cpu", model="dain-lite", max_vram_bytes=2**30))
    other = models.named("dain")
    assert models.default.model_name == "dain-lite" and other.model_name == "dain"
    assert models.named("dain") is other
    assert other._budget is models.default._budget is other._exact._budget
    assert other._budget.limit == 2**30
