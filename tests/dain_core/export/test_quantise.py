"""Convolutions in eight bits: what TensorRT takes of them, and which stay as they are."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dain_core.export import tensorrt
from dain_core.export.quantise import ASYMMETRIC, FLOAT8, SYMMETRIC, EightBits, quantise

RANDOM = np.random.default_rng(0)
SEEN = [{"x": RANDOM.random((1, 3, 8, 8), np.float32), "other": np.zeros(1, np.float32)} for _ in range(2)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Convolutions of `x` to `y`, of which some estimate and correct flow."""
    nodes, weights = [], []
    for name, source, target in (
        ("/flow/Conv", "x", "w"),
        ("/blocks.0/head/Conv", "w", "v"),
        ("/Conv", "v", "z"),
        ("/rectify/blocks.0/Conv", "z", "y"),
    ):
        given = {
            f"{name}.weight": RANDOM.random((3, 3, 3, 3), np.float32) - 0.5,
            f"{name}.bias": RANDOM.random(3, np.float32),
        }
        weights += [numpy_helper.from_array(value, each) for each, value in given.items()]
        nodes.append(
            helper.make_node("Conv", [source, *given], [target], name, pads=[1] * 4, kernel_shape=[3, 3])
        )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(made, {"dain.model": "tiny"})
    onnx.save(made, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def frame(path: Path) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(["y"], {"x": SEEN[0]["x"]})[0]


@pytest.mark.parametrize(
    ("kind", "error", "taken"), [(ASYMMETRIC, 0.1, False), (SYMMETRIC, 0.2, True), (FLOAT8, 0.5, True)]
)
def test_a_convolution_has_eight_bits_but_that_of_flow(
    kind: EightBits, error: float, taken: bool, model: Path
) -> None:
    exact = frame(model)
    quantise(model, SEEN, kind)
    assert 0 < np.abs(frame(model) - exact).max() < error
    made = onnx.load(model)
    by = {name: node.op_type for node in made.graph.node for name in node.output}
    inputs = {
        node.name: [by.get(name, "") for name in node.input]
        for node in made.graph.node
        if node.op_type == "Conv"
    }
    assert inputs["/flow/Conv"] == ["", "", ""] and inputs["/blocks.0/head/Conv"] == inputs["/Conv"] == [
        "Conv",
        "",
        "",
    ]
    assert inputs["/rectify/blocks.0/Conv"] == ["DequantizeLinear"] * 2 + [
        "" if taken else "DequantizeLinear"
    ]
    assert (not tensorrt.refused(model)[0]) == taken, tensorrt.refused(model)[0]
    assert [(each.key, each.value) for each in made.metadata_props] == [("dain.model", "tiny")]
    assert logging.root.manager.disable == logging.NOTSET  # others log on
