"""`dain bench claims` on a CPU: every promise has a row, and what cannot be measured says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from worker.bench import claims as module
from worker.bench.cli import bench


def test_every_claim_is_measured_or_says_why_not(tmp_path: Path) -> None:
    out = tmp_path / "claims.json"
    done = CliRunner().invoke(bench, ["claims", "--device", "cpu", "--size", "64x64", "--json", str(out)])
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    rows = {row["what"]: row for row in document["claims"]}
    assert document["on"].startswith("dain-lite at 64x64 on") and len(rows) == len(module.CLAIMS) == 9
    for row in rows.values():
        assert (row["ours"] is None) != (row["why"] is None) and row["theirs"] and row["repeat"], row
    assert rows["GPU memory"]["why"] == "there is no GPU here"
    assert rows["speed over the original"]["why"] == "the operators of the original need a GPU"
    assert rows["memory of training"]["why"] == "the memory of training is counted on a GPU"
    assert " dB from fp32 in bf16: at most 0." in rows["loss of half precision"]["ours"]
    assert rows["speed of half precision"]["repeat"] == "dain bench --precision eager --precision bf16"
    assert rows["file of the model"]["ours"].startswith("0.27 of fp32")
    assert "9/9 memory of training: not measured: " in done.output and "claim" in done.output


def test_a_precision_that_the_device_lacks_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ValueError("precision int8 needs a CPU with VNNI")

    monkeypatch.setattr(module, "measure", refuse)
    made = module.Bench("dain-lite", ("64x64", 64, 64), module.torch.device("cpu"))
    outcome = next(each for each in module.outcomes(made) if each.what.startswith("speed of eight"))
    assert (outcome.ours, outcome.why) == (None, "precision int8 needs a CPU with VNNI")
