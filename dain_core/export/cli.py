"""``dain export``: a model for other runtimes, as ONNX files."""

from __future__ import annotations

import click

from dain_core.options import LateGroup

COMMANDS = {
    "check": ("dain_core.export.commands", "check", "Say what of an ONNX file TensorRT does not take."),
    "onnx": ("dain_core.export.commands", "onnx", "Write a model as ONNX, opset 20."),
    "tensorrt": ("dain_core.export.commands", "tensorrt_engines", "Build a model as engines of TensorRT."),
}


@click.group(cls=LateGroup, late=COMMANDS)
def export() -> None:
    """A model for other runtimes."""
