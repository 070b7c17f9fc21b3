"""The commands of ``dain export``."""

from __future__ import annotations

from pathlib import Path

import click

from dain_core.errors import DainCoreError
from dain_core.export import engines, tensorrt
from dain_core.export.write import export as write
from dain_core.outputs import writing
from dain_core.weights.registry import named, registry


def onnx(
    out: Path, model: str, models: Path | None, precision: str, form: str, calibration: Path | None
) -> None:
    """Do what `dain export onnx` says, with its options."""
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
    """Do what `dain export tensorrt` says, with its options."""
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


def check(source: Path) -> None:
    """Do what `dain export check` says, with its options."""
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
