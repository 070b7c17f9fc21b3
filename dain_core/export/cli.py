"""``dain export``: a model for other runtimes, as ONNX files. Only options are here: help waits for no PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dain_core.choices import ENGINE_PRECISIONS, EXPORT_FORMS, EXPORT_PRECISIONS
from dain_core.options import Amount, models_option, start_pytorch
from dain_core.outputs import OutputFile


class _Out(OutputFile):
    """A file, or a folder that an earlier export made, which may be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.dir_okay = True


class _Size(click.ParamType):
    name = "WIDTHxHEIGHT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", str(value)):
            return int(match[1]), int(match[2])
        self.fail(f"{value!r} is no size such as 1920x1088", param, ctx)


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of what is exported."""
    model = click.option(
        "--model",
        default="dain-lite",
        show_default=True,
        help="A model that comes with the project, or yours.",
    )
    calibration = click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        help="A video, or a folder of videos or frames, whose values choose the ranges of eight bits.",
    )
    return model(models_option(calibration(command)))


@click.group()
def export() -> None:
    """A model for other runtimes."""


@export.command(short_help="Write a model as ONNX, opset 20.")
@click.argument("out", type=_Out())
@_model_options
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(EXPORT_PRECISIONS))
@click.option(
    "--form",
    default="whole",
    show_default=True,
    type=click.Choice(EXPORT_FORMS),
    help="One file, or a folder of three, so that the work for a frame and for a pair is done once.",
)
def onnx(**given: Any) -> None:
    """Write a model to OUT as ONNX, opset 20. Any size, number of frames and time may be given to it.

    The export makes a frame of a real pair, and is kept only if that is the network's frame.
    """
    start_pytorch()
    from dain_core.export import commands

    commands.onnx(**given)


@export.command("tensorrt", short_help="Build a model as engines of TensorRT.")
@click.argument("out", metavar="FOLDER", type=_Out())
@_model_options
@click.option("--precision", default="fp16", show_default=True, type=click.Choice(ENGINE_PRECISIONS))
@click.option(
    "--least", default="256x256", show_default=True, type=_Size(), help="Smallest frames, WIDTHxHEIGHT."
)
@click.option("--usual", default="1920x1088", show_default=True, type=_Size(), help="Frames to be fast for.")
@click.option("--most", default="3840x2176", show_default=True, type=_Size(), help="Largest frames.")
@click.option(
    "--workspace",
    default=4.0,
    show_default=True,
    type=Amount(0, 1024),
    metavar="GIB",
    help="Memory of a layer.",
)
@click.option(
    "--timing-cache", type=OutputFile(), help="File of what TensorRT measured; it is made, or added to."
)
@click.option(
    "--compute-capability", metavar="X.Y", help="GPU to build for, if TensorRT-RTX does; not the one here."
)
@click.option("--refittable", is_flag=True, help="Build engines that can be given other weights.")
@click.option(
    "--refit", is_flag=True, help="Give the engines in FOLDER the weights of the model; build nothing."
)
def tensorrt_engines(**given: Any) -> None:
    """Build the three stages of a model in FOLDER as engines of TensorRT, or of TensorRT-RTX.

    Engines that can be run here make a frame of a real pair, and are kept only if that is the network's frame.
    """
    start_pytorch()
    from dain_core.export import commands

    commands.tensorrt_engines(**given)


@export.command(short_help="Say what of an ONNX file TensorRT does not take.")
@click.argument("source", metavar="FILE", type=click.Path(exists=True, path_type=Path))
def check(**given: Any) -> None:
    """Say what of FILE, or of the files of a folder, TensorRT's parser does not take, by its documentation.

    TensorRT itself is not needed, and not asked.
    """
    start_pytorch()
    from dain_core.export import commands

    commands.check(**given)
