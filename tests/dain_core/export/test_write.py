"""Exported networks in ONNX Runtime against PyTorch: sizes, times, several frames at once; and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from dain_core.evaluation.metrics import psnr
from dain_core.export import write
from dain_core.export.cli import export
from dain_core.export.graphs import Graph
from dain_core.network.networks import Network, build, config_named
from dain_core.runtime.engine import Interpolator
from dain_core.weights.files import load_weights


@pytest.fixture
def exported(exports: Path) -> dict[str, Path]:
    """The stages of dain-lite."""
    return {path.stem: path for path in (exports / "dain-lite").iterdir()}


def network(name: str) -> Network:
    config = config_named(name)
    made = build(config)
    made.load_state_dict(load_weights(name, config))
    return made.prepare(torch.float32)


def moving(n: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two smooth random pictures, (n, 3, height, width), the second of which is the first moved by some pixels."""
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand((n, 3, 8, 8), generator=generator)
    large = nn.functional.interpolate(coarse, (height + 8, width + 8), mode="bicubic").clamp(0, 1)
    return large[..., :height, :width].contiguous(), large[..., 4 : 4 + height, 3 : 3 + width].contiguous()


def fidelity(
    files: dict[str, Path], model: Network, n: int, height: int, width: int, times: list[float]
) -> float:
    first, second = moving(n, height, width)
    time = torch.tensor(times)
    with torch.inference_mode():
        return psnr(
            write.run(files, first, second, time), model(first, second, time.view(-1, 1, 1, 1)).output
        )


def test_sizes_times_and_numbers_of_frames_are_inputs(exported: dict[str, Path]) -> None:
    model = network("dain-lite")
    for n, height, width, times in (
        (1, 1, 1, [0.5]),
        (1, 64, 64, [0.1]),
        (1, 33, 65, [0.9]),
        (1, 127, 30, [0.25]),
        (2, 40, 90, [1 / 3, 0.75]),
    ):
        assert fidelity(exported, model, n, height, width, times) > 80


@pytest.mark.slow
def test_the_whole_of_a_network_in_half_precision(tmp_path: Path) -> None:
    out = tmp_path / "refined.onnx"
    done = CliRunner().invoke(export, ["onnx", str(out), "--model", "dain-refined", "--precision", "fp16"])
    assert done.exit_code == 0 and "dain-refined, fp16" in done.output, done.output
    assert fidelity({"whole": out}, network("dain-refined"), 1, 50, 70, [0.6]) > 55


def test_a_graph_says_what_it_is_and_has_standard_operators_alone(exported: dict[str, Path]) -> None:
    for stage, path in exported.items():
        model = onnx.load(path)
        said = {each.key: each.value for each in model.metadata_props}
        assert (said["dain.model"], said["dain.graph"], said["dain.precision"]) == (
            "dain-lite",
            stage,
            "fp32",
        )
        assert [(each.domain, each.version) for each in model.opset_import] == [("", write.OPSET)]


def test_eight_bits_are_in_all_convolutions_but_those_of_flow(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "CALIBRATED", 2)
    out = tmp_path / "dain-lite"
    arguments = ["onnx", str(out), "--form", "stages", "--precision", "int8", "--calibration", str(clip)]
    done = CliRunner().invoke(export, arguments)
    assert done.exit_code == 0, done.output
    for path in out.iterdir():
        model = onnx.load(path)
        assert {each.key: each.value for each in model.metadata_props}["dain.precision"] == "int8"
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            if node.op_type == "Conv":
                exact = any(part.startswith(("flow", "pyramid")) for part in node.name.split("/"))
                assert (made_by.get(node.input[0]) == "DequantizeLinear") != exact, node.name
    assert (
        40
        < fidelity({path.stem: path for path in out.iterdir()}, network("dain-lite"), 1, 63, 99, [0.3])
        < 70
    )
    ours = Interpolator.load(backend="onnxruntime:CPU", exports=tmp_path, precision="int8")
    assert (ours.precision, ours.interpolate(*write.real_pair(), [0.5]).shape) == ("int8", (1, 3, 127, 235))


class _Still(nn.Module):
    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        return first + 0 * second * time


def _wrong(network: Network, first: Tensor, second: Tensor, time: Tensor) -> list[Graph]:
    return [Graph("whole", _Still(), {"first": first, "second": second, "time": time}, ["frame"])]


def test_an_export_that_makes_other_frames_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(write.FORMS, "whole", _wrong)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"good")
    done = CliRunner().invoke(export, ["onnx", str(out)])
    assert done.exit_code == 1 and "makes other frames than dain-lite" in done.output
    assert out.read_bytes() == b"good" and os.listdir(tmp_path) == ["model.onnx"]


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    (tmp_path / "file").touch()
    for arguments, said in (
        (
            ["a.onnx", "--model", "dian"],
            "no model is called 'dian': choose one of dain, dain-lite, dain-refined",
        ),
        (["a.onnx", "--precision", "int4"], "'int4' is not one of 'fp32', 'fp16', 'int8'"),
        (["a.onnx", "--precision", "int8"], "calibrated with real frames: name a video, or a folder, with"),
        (["a.onnx", "--precision", "int8", "--calibration", "away"], "away: there is no such file or folder"),
        (
            ["a.onnx", "--precision", "int8", "--calibration", "mine"],
            "mine: holds no video, no folder of frames",
        ),
        (["a.onnx", "--calibration", "mine"], "fp32 is not calibrated: leave --calibration away"),
        (["nowhere/a.onnx"], "there is no folder nowhere"),
        (["mine"], "mine is a folder: name a file"),
        (["file", "--form", "stages"], "file is a file: name a folder"),
        (["mine", "--form", "stages"], "mine holds other files, such as letter.txt"),
        (["/proc/a.onnx"], "cannot write /proc/a.onnx"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            done = CliRunner().invoke(export, ["onnx", *arguments])
        assert done.exit_code and said in " ".join(done.output.split()), done.output
    assert (tmp_path / "mine" / "letter.txt").exists()
