"""`dain bench claims` on a CPU: every promise has a row, and what cannot be measured says why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from worker.bench import claims as module
from worker.bench import measure
from worker.bench.cli import bench


def test_every_claim_is_measured_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ENOUGH_SECONDS", 0.01)  # each is run once
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
    assert re.fullmatch(r"bf16: \d+\.\d dB from fp32, at most .*", rows["loss of half precision"]["ours"])
    again = "dain bench --model dain-lite --size 64x64 --precision eager --precision bf16"
    assert rows["speed of half precision"]["repeat"] == again
    assert rows["file of the model"]["ours"].startswith("0.27 of fp32")
    assert "9/9 memory of training: not measured: " in done.output and "claim" in done.output


def test_a_precision_that_the_device_lacks_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ValueError("precision int8 needs a CPU with VNNI")

    monkeypatch.setattr(module, "measure", refuse)
    made = module.Bench("dain-lite", ("64x64", 64, 64), torch.device("cpu"))
    outcome = next(each for each in module.outcomes(made) if each.what.startswith("speed of eight"))
    assert (outcome.ours, outcome.why) == (None, "precision int8 needs a CPU with VNNI")


def test_a_model_without_eight_bits_on_a_gpu_says_so_and_is_compared_with_the_original(
    of_a_gpu: module.Bench,
) -> None:
    of_a_gpu.model, of_a_gpu.size, of_a_gpu.on_gpu = "dain-refined", ("1080p", 1080, 1920), True
    measures = {claim.what: claim.measure for claim in module.CLAIMS}
    with pytest.raises(module.NotMeasured, match="fp8 computes no block of dain-refined in eight bits"):
        measures["speed of eight bits, calibrated"](of_a_gpu)
    assert measures["speed over the original"](of_a_gpu).startswith("fp16: 25.0 times, 77.0 dB from fp32")


RATES = {"eager": 1000.0, "tf32": 150.0, "fp32": 900.0, "fp16": 40.0, "bf16": 39.0, "fp8": 30.0}
NEAR = {"fp16": 77.0, "bf16": 63.0, "fp8": 60.0}  # dB; the last two may cost a picture more than 0.3 dB


@pytest.fixture
def of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> module.Bench:
    """Measurements with the rates above; engines are named by whether they are made with TF32."""

    def measured(model: str, size: object, precision: str, *others: object) -> tuple[object, object]:
        row = SimpleNamespace(precision=precision, ms=RATES[precision], psnr_db=NEAR.get(precision, 120.0))
        return row, torch.zeros(1)

    monkeypatch.setattr(module, "measure", measured)
    monkeypatch.setattr(module, "load", lambda *given: torch.backends.cudnn.allow_tf32)
    monkeypatch.setattr(module, "between", lambda engine, pictures: None)
    bench = module.Bench("dain", ("64x64", 64, 64), torch.device("cpu"))
    bench.plain, bench.half, bench.eight = tuple(module.PLAIN), "fp16", "fp8"
    return bench


def test_speeds_are_over_fp32_and_over_tf32(of_a_gpu: module.Bench) -> None:
    said = {claim.what: claim.measure for claim in module.CLAIMS}
    expected = "fp16: 25.0 times fp32 and 3.8 times TF32, 77.0 dB from fp32"
    assert said["speed of half precision"](of_a_gpu) == expected


def test_fp32_is_without_tf32(of_a_gpu: module.Bench) -> None:
    allowed = []
    for precision in module.PLAIN:
        with of_a_gpu.engine(precision) as (made_with_tf32, _):
            allowed.append(made_with_tf32)
    assert allowed == [False, True]


@pytest.mark.parametrize(("half", "fastest"), [("fp16", "fp16"), ("bf16", "fp32")])
def test_the_fastest_precision_loses_no_more_than_promised(
    half: str, fastest: str, of_a_gpu: module.Bench
) -> None:
    of_a_gpu.half = half
    assert of_a_gpu.fastest.precision == fastest


def test_processor_time_is_of_the_frames_that_there_was_time_for(
    of_a_gpu: module.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = SimpleNamespace(perf_counter=iter([0.0, 8.0]).__next__, process_time=iter([0.0, 4.0]).__next__)
    monkeypatch.setattr(module, "time", clocks)
    monkeypatch.setattr(module, "steady", lambda *given: 1000.0)  # eight frames, of more that were asked for
    assert of_a_gpu.processor_ms("fp16") == 500.0


def test_what_does_not_fit_is_a_reason(of_a_gpu: module.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.training, "measure", full)
    of_a_gpu.on_gpu = True
    memory_of_training = module.CLAIMS[-1].measure
    with pytest.raises(
        module.NotMeasured, match=r"^training with batch and crop 4:256x256 does not fit into"
    ):
        memory_of_training(of_a_gpu)
