"""What TensorRT's ONNX parser takes, by its documentation, and what of a graph it would not.

`tensorrt.tsv` holds the operators of docs/operators.md of onnx/onnx-tensorrt for TensorRT 10.15, the types that each is
documented for, and whether it is restricted. Operators that are not listed there are not taken.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, defs, numpy_helper

from dain_core.export.errors import ExportError

VERSION = "TensorRT 10.15"
OPSETS = range(9, 25)

_TYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}


@dataclass(frozen=True)
class _Graph:
    """What is known of the tensors of a graph by name.

    Attributes:
        types: those whose type is known.
        ranks: the numbers of dimensions of those whose shape is known.
        constants: those that are known before the graph runs.
        zeros: those of the constants that hold nothing but zeros.
    """

    types: Mapping[str, str]
    ranks: Mapping[str, int]
    constants: frozenset[str]
    zeros: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> _Graph:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        known = [*graph.input, *graph.output, *graph.value_info]
        types = {each.name: each.type.tensor_type.elem_type for each in known}
        types |= {each.name: each.data_type for each in graph.initializer}
        ranks = {
            each.name: len(each.type.tensor_type.shape.dim)
            for each in known
            if each.type.tensor_type.HasField("shape")
        }
        ranks |= {each.name: len(each.dims) for each in graph.initializer}
        made = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
        return cls(
            {name: _TYPES.get(kind, TensorProto.DataType.Name(kind)) for name, kind in types.items() if kind},
            ranks,
            frozenset({each.name for each in graph.initializer} | made),
            frozenset(
                each.name
                for each in graph.initializer
                if each.name.endswith("zero_point") and not numpy_helper.to_array(each).any()
            ),
        )


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    for each in node.attribute:
        if each.name == name:
            value = onnx.helper.get_attribute_value(each)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _constant(index: int, name: str) -> Callable[[NodeProto, _Graph], str | None]:
    """A rule that an input must be known before the graph runs."""

    def rule(node: NodeProto, graph: _Graph) -> str | None:
        given = node.input[index] if len(node.input) > index else ""
        return f"its {name} must be constant" if given and given not in graph.constants else None

    return rule


def _pooling(node: NodeProto, graph: _Graph) -> str | None:
    if graph.ranks.get(node.input[0]) not in (4, 5):
        return "it must pool in two or three dimensions"
    if any(each != 1 for each in _attribute(node, "dilations", [])):
        return "its dilations must be 1"
    return "its indices are not computed" if len(node.output) > 1 else None


def _resize(node: NodeProto, graph: _Graph) -> str | None:
    allowed = {
        "mode": ("nearest", "nearest", "linear"),
        "coordinate_transformation_mode": (
            "half_pixel", "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
        ),
        "nearest_mode": (
            "round_prefer_floor", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil",
        ),
        "keep_aspect_ratio_policy": ("stretch", "stretch"),
        "antialias": (0, 0),
    }  # fmt: skip
    for name, (default, *values) in allowed.items():
        if (value := _attribute(node, name, default)) not in values:
            return f"its {name} must not be {value}"
    return None


def _scatter(node: NodeProto, graph: _Graph) -> str | None:
    reduction = _attribute(node, "reduction", "none")
    return f"its reduction {reduction} is not computed" if reduction != "none" else None


def _sample(node: NodeProto, graph: _Graph) -> str | None:
    return None if graph.ranks.get(node.input[0]) == 4 else "its input must have four dimensions"


def _quantisation(node: NodeProto, graph: _Graph) -> str | None:
    if node.input[1] not in graph.constants:
        return "its scale must be constant"
    shifted = len(node.input) > 2 and node.input[2] and node.input[2] not in graph.zeros
    return "its zero point must be zero" if shifted else None


def _plain_constant(node: NodeProto, graph: _Graph) -> str | None:
    wrong = {each.name for each in node.attribute} & {"sparse_value", "value_string", "value_strings"}
    return f"it must not have a {min(wrong)}" if wrong else None


_REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]

#: The restrictions, of the operators that networks here have. A rule returns what it finds wrong.
_RULES: Mapping[str, Callable[[NodeProto, _Graph], str | None]] = {
    "AveragePool": _pooling,
    "MaxPool": _pooling,
    "Constant": _plain_constant,
    "CumSum": _constant(1, "axis"),
    "DequantizeLinear": _quantisation,
    "QuantizeLinear": _quantisation,
    "GridSample": _sample,
    "Resize": _resize,
    "ScatterND": _scatter,
    "Squeeze": _constant(1, "axes"),
    "Unsqueeze": _constant(1, "axes"),
    **{f"Reduce{name}": _constant(1, "axes") for name in _REDUCTIONS},
}


def refused(path: Path) -> tuple[list[str], Counter[str]]:
    """Return a sentence for each thing in a file that the parser does not take, and its operators with their number.

    Raises:
        ExportError: the file is no ONNX file.
    """
    try:
        model = onnx.load(path)
        graph = _Graph.of(model)
    except Exception as error:  # whatever a file that is damaged makes the parser of protocol buffers say
        raise ExportError(f"{path} cannot be read as ONNX: {error}") from error
    if not model.graph.node:  # as in an empty file, which is a message without fields
        raise ExportError(f"{path} has no graph in it: it is empty or cut off. Export the model again")
    with Path(__file__).with_suffix(".tsv").open(newline="") as file:
        table = {row["operator"]: row for row in csv.DictReader(file, delimiter="\t")}
    opsets = {each.domain: each.version for each in model.opset_import}
    said = Counter(
        sentence for node in model.graph.node if (sentence := _refusal(node, graph, table, opsets.get("", 0)))
    )
    sentences = [
        f"{sentence} ({number} times)" if number > 1 else sentence for sentence, number in said.items()
    ]
    if opsets.get("", 0) not in OPSETS:
        sentences.append(f"Opset {opsets.get('')} is none of {OPSETS[0]} to {OPSETS[-1]}.")
    return sentences, Counter(node.op_type for node in model.graph.node)


def _refusal(
    node: NodeProto, graph: _Graph, table: Mapping[str, Mapping[str, str]], opset: int
) -> str | None:
    kind = node.op_type
    if node.domain:
        return f"{kind} is an operator of the domain {node.domain}, which needs a plug-in."
    row = table.get(kind)
    if row is None:
        return f"{kind} is not taken."
    if strange := sorted(_data_types(node, graph, opset) - set(row["types"].split())):
        return f"{kind} is not taken for {', '.join(strange)}: it is for {row['types']}."
    if not row["restricted"]:
        return None
    if kind not in _RULES:
        return f"{kind} is taken with restrictions, which this check does not know."
    fault = _RULES[kind](node, graph)
    return f"{kind} is not taken so: {fault}." if fault else None


def _data_types(node: NodeProto, graph: _Graph, opset: int) -> set[str]:
    """Return the types of a node's data: of the first input, and of all inputs and outputs that share its type."""
    schema = defs.get_schema(node.op_type, opset)
    if not schema.inputs:
        return {graph.types[name] for name in node.output if name in graph.types}
    kind = schema.inputs[0].type_str

    def of(names: Any, formal: Any) -> set[str]:
        last = len(formal) - 1  # the last input may stand for many
        return {
            graph.types[name]
            for number, name in enumerate(names)
            if name in graph.types and formal[min(number, last)].type_str == kind
        }

    return of(node.input, schema.inputs) | of(node.output, schema.outputs)
