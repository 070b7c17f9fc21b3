"""Exported graphs in eight bits: their convolutions between pairs of QuantizeLinear and DequantizeLinear (QDQ).

Ranges of activations are those seen on real frames; weights have a scale for each output channel. The convolutions that
estimate or correct flow stay as they are: a rounded flow moves pixels, and costs more than all others together.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

Arrays = Mapping[str, NDArray[Any]]

#: How the names of nodes begin whose convolutions are left as they are: what estimates flow and the features of it, and
#: what in `refine` corrects it and makes the kernels. Parts of `refine` lie at the top of a graph.
_EXACT = ("flow", "pyramid", "blocks", "hand_on", "Conv")


@dataclass(frozen=True)
class EightBits:
    """A way to compute in eight bits.

    Attributes:
        activations, weights: the types of their numbers.
        method: how the range of an activation is chosen.
        symmetric: whether zero is in the middle of that range. Biases have no eight bits then.
    """

    activations: QuantType
    weights: QuantType
    method: CalibrationMethod
    symmetric: bool


#: What ONNX Runtime computes fastest on a CPU, and what TensorRT takes.
ASYMMETRIC = EightBits(QuantType.QUInt8, QuantType.QInt8, CalibrationMethod.MinMax, False)
SYMMETRIC = EightBits(QuantType.QInt8, QuantType.QInt8, CalibrationMethod.MinMax, True)
FLOAT8 = EightBits(QuantType.QFLOAT8E4M3FN, QuantType.QFLOAT8E4M3FN, CalibrationMethod.Distribution, True)


def quantise(path: Path, seen: Sequence[Arrays], kind: EightBits) -> None:
    """Write the convolutions of an ONNX file in eight bits, in place.

    Args:
        path: of the file.
        seen: inputs of its graph on real frames, by name, and others.
        kind: the numbers.
    """
    model = onnx.load(path)
    kept = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and node.name.lstrip("/").startswith(_EXACT)
    ]
    if len(kept) == sum(node.op_type == "Conv" for node in model.graph.node):
        return
    names = [each.name for each in model.graph.input]
    with tempfile.TemporaryDirectory(dir=path.parent) as place, _quiet():
        made = Path(place) / path.name
        quantize_static(
            path,
            made,
            _Reader(iter([{name: arrays[name] for name in names} for arrays in seen])),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=kind.activations,
            weight_type=kind.weights,
            calibrate_method=kind.method,
            extra_options={
                "ActivationSymmetric": kind.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not kind.symmetric,  # TensorRT takes no integers of 32 bits for that
            },
        )
        quantised = onnx.load(made)
        del quantised.metadata_props[:]
        quantised.metadata_props.extend(model.metadata_props)
        onnx.save(quantised, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings: ONNX Runtime logs advice on steps that the export has taken."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Reader(CalibrationDataReader):
    """Gives inputs one after another, in the way that ONNX Runtime asks for them."""

    def __init__(self, inputs: Iterator[Arrays]) -> None:
        self._inputs = inputs

    def get_next(self) -> Arrays | None:
        return next(self._inputs, None)
