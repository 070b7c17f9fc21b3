"""The check of graphs against what TensorRT documents: exports pass, and what does not is named."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from dain_core.export import tensorrt
from dain_core.export.cli import export


def saved(path: Path, *nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT, opset: int = 20) -> Path:
    """A graph of x, of four dimensions, and a running number `axis` that is not constant, to y."""
    inputs = [
        helper.make_tensor_value_info("x", kind, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("axis", TensorProto.INT64, []),
    ]
    output = helper.make_tensor_value_info("y", kind, None)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", inputs, [output]), opset_imports=opsets), path)
    return path


def test_exports_are_taken(exports: Path) -> None:
    done = CliRunner().invoke(export, ["check", str(exports / "dain-lite")])
    assert done.exit_code == 0 and done.output.count("TensorRT 10.15 documents as taken") == 3, done.output


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Det", ["x"], ["y"]), "Det is not taken."),
        (
            helper.make_node("Fold", ["x"], ["y"], domain="com.example"),
            "Fold is an operator of the domain com.example",
        ),
        (
            helper.make_node("CumSum", ["x", "axis"], ["y"]),
            "CumSum is not taken so: its axis must be constant.",
        ),
        (
            helper.make_node("QuantizeLinear", ["x", "x"], ["y"]),
            "QuantizeLinear is not taken so: its scale must be constant.",
        ),
        (helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 2]), "LpPool is taken with restrictions"),
        (
            helper.make_node("ScatterND", ["x", "axis", "x"], ["y"], reduction="add"),
            "ScatterND is not taken so: its reduction add is not computed.",
        ),
        (
            helper.make_node("Resize", ["x", "", "axis"], ["y"], mode="cubic"),
            "Resize is not taken so: its mode must not be cubic.",
        ),
        (
            helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]),
            "MaxPool is not taken so: its dilations must be 1.",
        ),
    ],
)
def test_what_is_not_taken_is_named(node: onnx.NodeProto, said: str, tmp_path: Path) -> None:
    sentences, _ = tensorrt.refused(saved(tmp_path / "a.onnx", node))
    assert len(sentences) == 1 and sentences[0].startswith(said), sentences


def test_types_are_looked_at(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx", helper.make_node("Ceil", ["x"], ["y"]), kind=TensorProto.DOUBLE)
    assert tensorrt.refused(path)[0] == ["Ceil is not taken for DOUBLE: it is for FP32 FP16 BF16."]


def test_the_command_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    twice = [helper.make_node("Det", ["x"], ["z"]), helper.make_node("Det", ["x"], ["y"])]
    path = saved(tmp_path / "a.onnx", *twice, opset=25)
    done = CliRunner().invoke(export, ["check", str(path)])
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "a.onnx: Det is not taken. (2 times)",
        "a.onnx: Opset 25 is none of 9 to 24.",
    ]
    for content, said in ((b"no model", "b.onnx cannot be read as ONNX"), (b"", "b.onnx has no graph in it")):
        (tmp_path / "b.onnx").write_bytes(content)
        done = CliRunner().invoke(export, ["check", str(tmp_path / "b.onnx")])
        assert done.exit_code == 1 and said in done.output
