"""``dain compress``: a model that takes less time, and what it loses by that.

Only options are here, so that help does not wait for PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dain_core.choices import CALIBRATIONS, IMPORTANCES
from dain_core.compression.options import learning_options
from dain_core.options import Amount, models_option, start_pytorch
from dain_core.outputs import OutputFile


@click.group()
def compress() -> None:
    """Make a model faster, at a measured loss."""


@compress.command(short_help="Train a model to lose less in eight bits, if it loses much.")
@click.argument("model")
@click.argument("out", type=OutputFile())
@click.option(
    "--precision",
    default="int8",
    show_default=True,
    type=click.Choice(("int8", "fp8")),
    help="Its eight bits.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of videos to learn from.  [default: scenes that are made]",
)
@click.option(
    "--loss",
    default=0.05,
    show_default=True,
    type=Amount(),
    help="Loss in dB by eight bits up to which nothing is trained; -inf always trains.",
)
@learning_options(2e-5, 1, "Steps to train for.")
@models_option
def adapt(**given: Any) -> None:
    """Train MODEL to lose less in eight bits, if it loses much; write its weights and their calibration to OUT.

    The eight bits are simulated while it trains, and its teacher is the model in float32.
    """
    start_pytorch()
    from dain_core.compression.adapt import adapt as run

    run(**given)


@compress.command(short_help="Remove the channels that matter least, and train what is left.")
@click.argument("model")
@click.argument("out", type=OutputFile())
@click.option(
    "--keep",
    type=Amount(0, 1, min_open=True, max_open=True),
    help="Share of the multiplications that is left.  [default: 0.7]",
)
@click.option(
    "--widths",
    "wanted",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file of the network to make, in place of --keep: docs/compression.md has an example.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of videos to measure and to learn from.  [default: scenes that are made]",
)
@click.option(
    "--importance",
    "measure",
    default="second",
    show_default=True,
    type=click.Choice(IMPORTANCES),
    help="What tells how much a channel matters: the loss to first or second order, or the size of its weights.",
)
@click.option(
    "--samples",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="Triplets to measure importance by.",
)
@learning_options(1e-4, 0, "Steps to train for; 0 does not train.")
@models_option
def prune(**given: Any) -> None:
    """Remove the channels of MODEL that matter least, train what is left, and write its weights to OUT.

    The file says which network it is of: `dain eval`, DAIN_MODELS and all other places take it like any other.
    """
    start_pytorch()
    from dain_core.compression.prune import prune as run

    run(**given)


@compress.command(short_help="Calibrate a model for eight bits on real frames.")
@click.argument("model")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of videos or frames of the kind that the model is for.",
)
@click.option(
    "--pairs", default=64, show_default=True, type=click.IntRange(1), help="Number of pairs of frames to see."
)
@click.option(
    "--method",
    default="max",
    show_default=True,
    type=click.Choice(CALIBRATIONS),
    help="Range of an activation: all of it, a percentile, or that of the least mean square error.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@models_option
def quantise(**given: Any) -> None:
    """Calibrate MODEL for eight bits on real frames.

    The scales are written beside the weights, as NAME.calibration.json, where the precisions int8 (on CPUs) and fp8 (on
    GPUs) find them. Weights need no calibration: each output channel has a scale of its own.
    """
    start_pytorch()
    from dain_core.compression.quantise import quantise as run

    run(**given)
