"""The command `dain tune`. Only its options are here, so that help does not wait for PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from dain_core.evaluation.cli import FrameSize
from dain_core.options import Amount, models_option
from dain_core.outputs import OutputFile


@click.command()
@click.argument("model")
@click.argument("out", type=OutputFile())
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of videos or frames of the kind that the model is for.",
)
@click.option("--loss", type=Amount(0), help="dB that may be lost against float32.  [default: 0.1]")
@click.option(
    "--time",
    "milliseconds",
    type=Amount(0, min_open=True),
    help="Milliseconds that a new frame may take.",
)
@click.option(
    "--pairs", default=16, show_default=True, type=click.IntRange(1), help="Pairs of frames to see."
)
@click.option(
    "--size",
    default="1920x1080",
    show_default=True,
    type=FrameSize(),
    help="Frames to measure the time with.",
)
@click.option(
    "--repeats", default=5, show_default=True, type=click.IntRange(1), help="Measurements of a time."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@models_option
def tune(
    model: str, out: Path, data: Path, loss: float | None, milliseconds: float | None, pairs: int,
    size: tuple[int, int], repeats: int, device: str, models: Path | None,
) -> None:  # fmt: skip
    """Choose the precision of each block of MODEL on this device, and write it to OUT for DAIN_PROFILE.

    The choice is the fastest that loses no more than --loss, or the one that loses least within --time.
    """
    if loss is not None and milliseconds is not None:
        raise click.UsageError("--loss and --time exclude each other: give one")
    if milliseconds is None:
        loss = 0.1 if loss is None else loss
    from dain_core.compression.tune import run

    run(model, out, data, loss, milliseconds, pairs, size, repeats, device, models)
