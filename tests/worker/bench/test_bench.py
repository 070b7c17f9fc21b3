"""`dain bench` on a frame small enough for a CPU."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from worker.bench import engine as bench
from worker.bench import measure
from worker.bench.cli import bench as command


def test_the_operations_are_those_of_the_published_network() -> None:
    assert measure.operations_per_pixel("dain") == pytest.approx(20.2e12 / (1920 * 1088), rel=0.02)
    assert measure.operations_per_pixel("dain-lite") < 0.5e6


def test_a_table_and_the_same_as_json(tmp_path: Path) -> None:
    chosen = ["--size", "64x64", *(f"--precision={name}" for name in ("eager", "fp32", "bf16"))]
    arguments = [
        *chosen,
        "--model=dain-lite",
        "--device=cpu",
        "--frames=1",
        f"--json={tmp_path / 'rows.json'}",
    ]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "rows.json").read_text())
    plain, exact, half = document["rows"]
    assert [row["precision"] for row in document["rows"]] == ["eager", "fp32", "bf16"]
    assert plain["psnr_db"] is None and exact["psnr_db"] > 80 and half["psnr_db"] > 40
    assert plain["speedup"] is None and half["speedup"] == pytest.approx(plain["ms"] / half["ms"])
    assert 0 < plain["ceiling_share"] < 1.5 and "bf16" in done.output


@pytest.mark.parametrize(
    ("option", "complaint"),
    [("--device=gpu", "no device is called 'gpu'"), ("--json=absent/rows.json", "there is no folder absent")],
)
def test_mistakes_are_sentences_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch, option: str, complaint: str
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("it was timed"))
    done = CliRunner().invoke(command, ["--size=64x64", option])
    assert done.exit_code and complaint in done.output, done.output


def test_the_table_fits_140_columns() -> None:
    row = measure.Row(
        "dain", "1080p", "eager", 12345.6, 1234.56, 12.34, 1234.5, 1234.5, 1234.5, 61.25, 72.25, 750.0, 801.0,
        0.93, 101.2, 0,
    )  # fmt: skip
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(bench.table("NVIDIA H100 80GB HBM3, PyTorch 2.11.0+cu130, at most 40 GiB", [row]))
    text = console.export_text()
    assert all(len(line) <= 140 for line in text.splitlines())
    assert "12345.6" in text and "101.2" in text and "frames/s" in text


def test_what_does_not_fit_is_said_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 80.00 GiB\nand more")

    monkeypatch.setattr(bench, "measure", fail)
    left_out: dict[str, str] = {}
    assert bench.compare("dain", ("4k", 2160, 3840), ["fp32"], torch.device("cpu"), 1, left_out) == []
    assert left_out == {"dain 4k fp32": "tried to allocate 80.00 GiB"}
    assert "dain 4k fp32: tried to allocate 80.00 GiB" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["480", "4K", "64x", "axb"])
def test_a_size_is_a_name_or_a_width_and_a_height(size: str) -> None:
    done = CliRunner().invoke(command, ["--size", size])
    assert done.exit_code == 2 and "WIDTHxHEIGHT" in done.output
