"""`dain bench`: what it measures unless it is told, and what it says meanwhile."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from click.testing import CliRunner

from dain_core.runtime import backends
from worker.bench import engine
from worker.bench.choices import PRECISIONS
from worker.bench.cli import OTHERS, bench


def test_the_choices_are_those_of_the_engine() -> None:
    assert set(PRECISIONS) == {"eager", "tf32", *backends.PRECISIONS}
    for name in OTHERS:
        assert getattr(import_module(f"worker.bench.{name}"), name).name == name
        assert f"  {name} " in CliRunner().invoke(bench, ["--help"]).output


def test_a_cpu_is_asked_for_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(engine, "compare", lambda *measured: asked.append(measured[:3]) or [])
    done = CliRunner().invoke(bench, ["--device", "cpu"])
    assert done.exit_code == 0, done.output
    precisions = ["eager", "fp32", "bf16", "int8"]
    assert asked == [
        ("dain-lite", ("480p", 480, 640), precisions),
        ("dain-lite", ("720p", 720, 1280), precisions),
    ]


def test_progress_is_said_before_and_after_each_measurement() -> None:
    words = [
        "--device",
        "cpu",
        "--size",
        "64x64",
        "--precision",
        "fp32",
        "--model",
        "dain-lite",
        "--frames",
        "2",
    ]
    done = CliRunner().invoke(bench, words)
    assert done.exit_code == 0, done.output
    first, begun, ended = done.stderr.splitlines()
    assert first == "Starting PyTorch." and begun == "dain-lite 64x64 fp32: measuring"
    assert ended.startswith("dain-lite 64x64 fp32: ") and ended.endswith("frames/s")


def test_a_precision_that_a_cpu_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out: dict[str, str] = {}
    rows = engine.compare("dain-lite", ("64x64", 64, 64), ["fp8"], torch.device("cpu"), 2, left_out)
    assert rows == [] and "compute capability 9.0" in left_out["dain-lite 64x64 fp8"]
