"""``dain export``: a model for other runtimes, as ONNX files."""

from __future__ import annotations

from pathlib import Path

import click

from dain_core.errors import DainCoreError
from dain_core.export import tensorrt
from dain_core.export.graphs import FORMS
from dain_core.export.write import PRECISIONS
from dain_core.export.write import export as write
from dain_core.outputs import OutputFile, writing
from dain_core.weights.registry import registry


class _Out(OutputFile):
    """A file, or a folder that an earlier export made, which may be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.dir_okay = True


@click.group()
def export() -> None:
    """A model for other runtimes."""


@export.command()
@click.argument("out", type=_Out())
@click.option(
    "--model", default="dain-lite", show_default=True, help="A model that comes with the project, or yours."
)
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    envvar="DAIN_MODELS",
    help="Folder of models of your own; the setting DAIN_MODELS otherwise.",
)
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(list(PRECISIONS)))
@click.option(
    "--form",
    default="whole",
    show_default=True,
    type=click.Choice(list(FORMS)),
    help="One file, or a folder of three, so that the work for a frame and for a pair is done once.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="A video, or a folder of videos or frames, whose values choose the ranges of eight bits.",
)
def onnx(
    out: Path, model: str, models: Path | None, precision: str, form: str, calibration: Path | None
) -> None:
    """Write a model to OUT as ONNX, opset 20. Any size, number of frames and time may be given to it.

    The export makes a frame of a real pair, and is kept only if that is the network's frame.
    """
    try:
        entries = registry(models)
        if model not in entries:
            raise click.BadParameter(f"no model is called {model!r}: choose one of {', '.join(entries)}")
        with writing(out):
            fidelity = write(entries[model], out, precision=precision, form=form, calibration=calibration)
    except DainCoreError as error:
        raise click.ClickException(str(error)) from error
    size = sum(path.stat().st_size for path in (out, *out.glob("*.onnx")) if path.is_file())
    click.echo(
        f"{out}: {model}, {precision}, {size / 1e6:.1f} MB; {fidelity:.1f} dB from the network on a real pair"
    )


@export.command()
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
