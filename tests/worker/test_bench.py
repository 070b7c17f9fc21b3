"""`dain bench` on a frame small enough for a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from worker import bench


def test_the_operations_are_those_of_the_published_network() -> None:
    assert bench.operations_per_pixel("dain") == pytest.approx(20.2e12 / (1920 * 1088), rel=0.02)


def test_a_table_and_the_same_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.SIZES, "480p", (64, 64))
    arguments = [
        "--size",
        "480p",
        "--precision",
        "fp32",
        "--precision",
        "bf16",
        "--device",
        "cpu",
        "--frames",
        "1",
    ]
    done = CliRunner().invoke(bench.bench, [*arguments, "--json", str(tmp_path / "rows.json")])
    assert done.exit_code == 0, done.output
    exact, half = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (exact["precision"], half["precision"]) == ("fp32", "bf16")
    assert exact["psnr_db"] is None and half["psnr_db"] > 40
    assert half["speedup"] == pytest.approx(exact["ms"] / half["ms"])
    assert 0 < exact["ceiling_share"] < 1.5 and "bf16" in done.output
