"""The commands of ``dain export``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dain_core.errors import DainCoreError
from dain_core.export import engines, tensorrt
from dain_core.export.graphs import FORMS
from dain_core.export.write import PRECISIONS
from dain_core.export.write import export as write
from dain_core.options import Amount, models_option
from dain_core.outputs import OutputFile, writing
from dain_core.weights.registry import named, registry


class _Out(OutputFile):
    """A file, or a folder that an earlier export made, which may be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.dir_okay = True


class _Size(click.ParamType):
    name = "WIDTHxHEIGHT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> engines.Size:
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


@click.command()
@click.argument("out", type=_Out())
@_model_options
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(list(PRECISIONS)))
@click.option(
    "--form",
    default="whole",
    show_default=True,
    type=click.Choice(list(FORMS)),
    help="One file, or a folder of three, so that the work for a frame and for a pair is done once.",
)
def onnx(
    out: Path, model: str, models: Path | None, precision: str, form: str, calibration: Path | None
) -> None:
    """Write a model to OUT as ONNX, opset 20. Any size, number of frames and time may be given to it.

    The export makes a frame of a real pair, and is kept only if that is the network's frame.
    """
    try:
        entry = named(model, registry(models))
        with writing(out):
            fidelity = write(entry, out, precision=precision, form=form, calibration=calibration)
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    size = sum(path.stat().st_size for path in (out, *out.glob("*.onnx")) if path.is_file())
    click.echo(
        f"{out}: {model}, {precision}, {size / 1e6:.1f} MB; {fidelity:.1f} dB from the network on a real pair"
    )


@click.command("tensorrt")
@click.argument("out", metavar="FOLDER", type=_Out())
@_model_options
@click.option("--precision", default="fp16", show_default=True, type=click.Choice(list(engines.PRECISIONS)))
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
def tensorrt_engines(
    out: Path,
    model: str,
    models: Path | None,
    precision: str,
    least: engines.Size,
    usual: engines.Size,
    most: engines.Size,
    workspace: float,
    timing_cache: Path | None,
    calibration: Path | None,
    compute_capability: str | None,
    refittable: bool,
    refit: bool,
) -> None:
    """Build the three stages of a model in FOLDER as engines of TensorRT, or of TensorRT-RTX.

    Engines that can be run here make a frame of a real pair, and are kept only if that is the network's frame.
    """
    try:
        entry = named(model, registry(models))
        with writing(out):
            if refit:
                engines.refit(entry, out, calibration=calibration, say=click.echo)
                return
            order = engines.Order(precision, least, usual, most, int(workspace * 2**30), refittable)
            fidelity = engines.build(
                entry,
                out,
                order,
                timing_cache=timing_cache,
                calibration=calibration,
                compute_capability=compute_capability,
                say=click.echo,
            )
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    if fidelity is not None:
        click.echo(f"{out}: {fidelity:.1f} dB from the network on a real pair")


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(exists=True, path_type=Path))
def check(source: Path) -> None:
    """Say what of FILE, or of the files of a folder, TensorRT's parser does not take, by its documentation.

    TensorRT itself is not needed, and not asked.
    """
    files = sorted(source.glob("*.onnx")) if source.is_dir() else [source]
    if not files:
        raise click.ClickException(f"{source} has no ONNX file in it")
    found = 0
    for path in files:
        try:
            sentences, operators = tensorrt.refused(path)
        except DainCoreError as error:
            raise click.ClickException(str(error)) from error
        found += len(sentences)
        for sentence in sentences:
            click.echo(f"{path.name}: {sentence}")
        if not sentences:
            click.echo(
                f"{path.name}: {operators.total()} nodes of {len(operators)} operators, all of which "
                f"{tensorrt.VERSION} documents as taken"
            )
    if found:
        raise SystemExit(1)
