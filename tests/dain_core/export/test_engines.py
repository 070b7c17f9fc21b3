"""Engines of TensorRT, by a stand-in of its API, and of TensorRT-RTX itself where it is installed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from dain_core.export import engines
from dain_core.export.cli import export
from dain_core.export.errors import ExportError
from dain_core.weights.registry import Entry
from tests.dain_core.export import standin

SMALL = ["--least", "64x64", "--usual", "256x128", "--most", "256x128"]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(export, ["tensorrt", *map(str, arguments)])


def said(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, and a GPU for it."""
    monkeypatch.setitem(sys.modules, "tensorrt", standin)
    monkeypatch.setattr(engines, "_gpu", lambda name, capability: (standin.GPU, torch.device("cpu")))
    monkeypatch.setattr(standin, "plugins", False)


def test_engines_are_built_compared_kept_and_given_other_weights(
    tensorrt: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = tmp_path / "written", engines._graphs

    def once(entry: Entry, folder: Path, *more: Any) -> dict[str, Path]:
        if not written.exists():
            written.mkdir()
            write(entry, written, *more)
        return {path.stem: shutil.copy(path, folder / path.name) for path in written.iterdir()}

    monkeypatch.setattr(engines, "_graphs", once)
    out, cache = tmp_path / "engines", tmp_path / "timing"
    given = [out, *SMALL, "--refittable", "--workspace", "0.5", "--timing-cache", cache]
    built = command(*given)
    assert built.exit_code == 0 and "dB from the network on a real pair" in built.output.splitlines()[-1], (
        said(built)
    )
    assert {path.name for path in out.iterdir()} == {
        "features.engine", "motion.engine", "synthesis.engine", "engines.json",
    }  # fmt: skip
    assert cache.read_bytes() == b"simulated:+++"  # a build of each stage added to it
    record = json.loads((out / "engines.json").read_text())
    assert (record["toolkit"], record["gpu"], record["order"]["workspace"]) == (
        "TensorRT 10.13.0",
        "simulated",
        2**29,
    )
    before = (out / "motion.engine").stat().st_mtime_ns
    assert "has these engines already" in said(command(*given))
    assert (out / "motion.engine").stat().st_mtime_ns == before

    assert "motion.engine has the weights of dain-lite" in said(command(out, "--refit"))
    assert "cannot take the weights of dain: they are of dain-lite" in said(
        command(out, "--refit", "--model", "dain")
    )
    for name, value in (("GPU", "another"), ("__version__", "11.4.0")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(standin, name, value)
            refused = command(out, "--refit")
            assert refused.exit_code == 1 and "engines run nowhere else. Build them again" in said(refused)


def test_what_cannot_be_built_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    assert "engines need the package tensorrt" in said(command("out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", standin)
        assert "finds no GPU here to build engines for" in said(command("out"))
        assert "leave --compute-capability away" in said(command("out", "--compute-capability", "8.9"))
        patch.setattr(engines, "_gpu", lambda name, capability: (standin.GPU, torch.device("cpu")))
        for arguments, sentence in (
            (["out", "--usual", "1920x1080"], "1920x1080 is not: choose 1920x1088"),
            (["out", "--least", "3840x2176"], "no side may be larger in --least"),
            (["out", "--least", "0x64"], "'0x64' is no size such as 1920x1088"),
            (["out", "--usual", "large"], "'large' is no size such as 1920x1088"),
            (["out", "--precision", "int8", *SMALL], "calibrated with real frames"),
            (["mine"], "mine holds other files: name a new folder"),
            (["mine/letter.txt"], "letter.txt is a file: name a folder"),
            (["mine", "--refit"], "mine has no engines: build them without --refit"),
            (["out", "--workspace", "nan"], "'nan' is no number"),
            (["out", "--workspace", "inf"], "is not in the range"),
            (["out", "--model", "dian"], "no model is called 'dian'"),
        ):
            refused = command(*arguments)
            assert refused.exit_code and sentence in said(refused), said(refused)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_tensorrt_refuses_is_said(tensorrt: None, tmp_path: Path) -> None:
    """A graph that adds by ScatterElements, and a timing cache of another GPU."""
    shape, kinds = ["n"], {"x": TensorProto.FLOAT, "at": TensorProto.INT64, "more": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind in kinds.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    node = helper.make_node("ScatterElements", list(kinds), ["y"], reduction="add")
    model = helper.make_model(helper.make_graph([node], "g", inputs, [output]))
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "sum.onnx")
    shapes = [{name: (size,) for name in kinds} for size in (1, 2, 3)]
    toolkit, order = (
        engines.Toolkit.installed(None),
        engines.Order("fp16", (64, 64), (64, 64), (64, 64), 2**30),
    )

    def build(cache: Path | None = None) -> bytes:
        return engines._build(toolkit, tmp_path / "sum.onnx", shapes, order, cache)

    assert standin.GPU.encode() in build()  # with TensorRT's plug-ins, one of which adds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standin, "init_libnvinfer_plugins", lambda logger, namespace: True)
        patch.setattr(standin, "plugins", False)
        with pytest.raises(
            ExportError, match="TensorRT 10.13.0 does not take sum: no importer for the operator"
        ):
            build()
    (tmp_path / "cache").write_bytes(b"another:")
    with pytest.raises(ExportError, match="cache is of another GPU or another TensorRT: name another file"):
        build(tmp_path / "cache")
    assert (tmp_path / "cache").read_bytes() == b"another:"


def test_tensorrt_rtx_builds_for_a_gpu_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "it has 7.5" in said(command(tmp_path / "out", *SMALL, "--compute-capability", "9.0"))
    built = command(tmp_path / "out", "--usual", "64x64", "--most", "64x64", "--least", "64x64",
                    "--compute-capability", "8.9")  # fmt: skip
    assert built.exit_code == 0, said(built)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "features.engine", "motion.engine", "synthesis.onnx", "engines.json",
    }  # fmt: skip
