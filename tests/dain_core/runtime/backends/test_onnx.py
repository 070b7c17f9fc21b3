"""Exported models in the engine: the frames are the network's, and what is missing is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dain_core.evaluation.metrics import psnr
from dain_core.export.write import real_pair
from dain_core.runtime import engine
from dain_core.runtime.backends.onnx import NotExportedError
from dain_core.runtime.backends.stages import BackendError
from dain_core.runtime.engine import Interpolator
from dain_core.weights.files import WeightsError


def made(interpolator: Interpolator, times: list[float]) -> Tensor:
    return interpolator.interpolate(*real_pair(), times)


def test_the_frames_are_the_networks(exports: Path) -> None:
    ours = Interpolator.load("dain-lite", device="cpu", precision="fp32")
    theirs = Interpolator.load(backend="onnxruntime:CPU", exports=exports)
    theirs.warm_up()
    assert (theirs.backend, theirs.model_name, theirs.precision) == ("onnxruntime", "dain-lite", "fp32")
    frames = made(theirs, [0.25, 0.5])
    assert psnr(frames, made(ours, [0.25, 0.5])) > 90
    assert torch.equal(frames, made(theirs, [0.25, 0.5]))  # to the byte, as on a CPU without an export


def test_a_frame_that_is_not_finite_is_found(exports: Path) -> None:
    theirs = Interpolator.load(backend="onnxruntime", exports=exports)
    broken = real_pair()[0].clone()
    broken[..., 40, 40] = float("nan")
    with pytest.raises(FloatingPointError):
        theirs.interpolate(broken, broken, [0.5])


def test_what_cannot_be_run_is_said(exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(backend: str = "onnxruntime", **given: object) -> Interpolator:
        return Interpolator.load(**{"model": "dain-lite", "backend": backend, "exports": exports, **given})

    with pytest.raises(ValueError, match="backend 'onyx' is none of"):
        load("onyx")
    with pytest.raises(BackendError, match="no provider 'Abacus': it has"):
        load("onnxruntime:Abacus")
    with pytest.raises(BackendError, match="not by the name 'cuda:1'"):
        load(device="cuda:1")
    with pytest.raises(BackendError, match="no precision 'fp8'"):
        load(precision="fp8")
    with pytest.raises(
        NotExportedError, match=r"no export of dain in .*dain: `dain export onnx .* --model dain "
    ):
        load(model="dain")
    with pytest.raises(WeightsError, match="or in another precision than fp16"):
        load(precision="fp16")
    with pytest.raises(WeightsError, match="precision than int8: .*--precision int8 --calibration FRAMES"):
        load(precision="int8")
    shutil.copytree(exports / "dain-lite", tmp_path / "dain-refined")
    with pytest.raises(WeightsError, match="other weights than those of dain-refined"):
        load(model="dain-refined", exports=tmp_path)
    (tmp_path / "dain-refined" / "motion.onnx").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"cannot open .*motion\.onnx"):
        load(model="dain-refined", exports=tmp_path)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="needs the package onnxruntime"):
        load()


@pytest.mark.parametrize(
    ("backend", "named"), [("onnxruntime", "CUDA"), ("onnxruntime:OpenVINO", "OpenVINO")]
)
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_the_cpu(
    backend: str, named: str, exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = ["CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: installed)
    with pytest.raises(BackendError, match=f"provider {named} did not start here.*choose `onnxruntime:CPU`"):
        Interpolator.load(backend=backend, exports=exports)
