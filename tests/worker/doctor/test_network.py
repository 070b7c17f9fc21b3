"""Each check of the networks, where it finds fault."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dain_core.weights import files
from service.doctor.findings import Level
from worker.doctor import network
from worker.doctor.network import Frame


def test_weights_that_are_missing_or_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dain-lite.safetensors").write_bytes(b"damaged")
    there = files.shipped_path("dain")
    monkeypatch.setattr(
        files, "shipped_path", lambda name: there if name == "dain" else tmp_path / f"{name}.safetensors"
    )
    lite, refined = network.weights()
    assert lite.level is Level.ERROR and "dain-lite.safetensors is damaged" in lite.says
    assert refined.level is Level.ERROR and "dain-refined.safetensors is missing" in refined.says


def test_a_folder_of_models_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAIN_MODELS", str(tmp_path / "gone"))
    (found,) = network.weights()
    assert found.level is Level.ERROR and "there is no folder" in found.says and "DAIN_MODELS" in found.fix


def test_a_frame_in_each_precision_of_this_machine() -> None:
    exact, *others = network.warm_up()
    assert exact.level is Level.OK and "in fp32 on cpu" in exact.says and "dB" not in exact.says
    assert any("in bf16 on cpu" in found.says and "dB from fp32" in found.says for found in others)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (Frame("fp16", 31.0, 5.0, 0), "31.0 dB from fp32"),
        (Frame("fp16", math.nan, 5.0, 0), "nan dB"),
        (Frame("bf16", 60.0, 5.0, 1), "not finite"),
    ],
)
def test_a_precision_that_makes_another_frame(frame: Frame, expected: str) -> None:
    found = network.judge_frame("cuda:0", frame)
    assert found.level is Level.ERROR and expected in found.says and "DAIN_PRECISION" in found.fix


def test_a_device_that_makes_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(network, "frames", fail)
    (found,) = network.warm_up()
    assert found.level is Level.ERROR and found.says.endswith(
        "no kernel image is available for execution on the device."
    )


def test_padding_that_takes_much_of_the_work() -> None:
    told, dear = network.judge_padding("dain-lite", 64, [(1080, 1920), (144, 176)])
    assert told.level is Level.OK and "1920x1080 as 1920x1088 (+1%)" in told.says
    assert dear.level is Level.WARNING and "176x144" in dear.says
