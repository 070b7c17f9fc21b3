"""``dain weights``: look at, check, convert, average and fetch model weights.

Only options are here, so that help does not wait for PyTorch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from dain_core.choices import LAYOUTS, MODELS
from dain_core.errors import DainCoreError
from dain_core.options import start_pytorch
from dain_core.outputs import OutputFile


class _Weights(click.Group):
    """Reports an error of the weights as one of the command, not of the program."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DainCoreError as error:
            raise click.ClickException(str(error)) from error


class _Share(click.ParamType):
    """Weights and their share in a mean, SOURCE=NUMBER."""

    name = "SOURCE=SHARE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        source, _, share = value.rpartition("=")
        if not source or not re.fullmatch(r"\d+(\.\d+)?", share) or float(share) == 0:
            self.fail(f"{value!r} is not SOURCE=SHARE with a share above 0", param, ctx)
        return source, float(share)


_LAYOUT = click.option(
    "--layout", default="int8", show_default=True, type=click.Choice(LAYOUTS), help="How to store."
)
_MODEL = click.option(
    "--model", type=click.Choice(MODELS), help="What they are for.  [default: what they fit]"
)


@click.group(cls=_Weights)
def weights() -> None:
    """Model weights: what is installed, and files of your own."""


@weights.command(short_help="Write weights, such as the authors', as safetensors.")
@click.argument("source")
@click.argument("destination", type=OutputFile())
@_LAYOUT
@_MODEL
def convert(**given: Any) -> None:
    """Write the weights of SOURCE, such as the authors' best.pth, to DESTINATION as safetensors."""
    start_pytorch()
    from dain_core.weights import commands

    commands.convert(**given)


@weights.command(short_help="Fetch the authors' checkpoint (96 MB).")
@click.argument("destination", type=click.Path(path_type=Path), default="best.pth")
def download(**given: Any) -> None:
    """Fetch the authors' checkpoint (96 MB) to DESTINATION and check its hash."""
    start_pytorch()
    from dain_core.weights import commands

    commands.download(**given)


@weights.command("list")
def list_weights() -> None:
    """List the weights that come with the project."""
    start_pytorch()
    from dain_core.weights import commands

    commands.list_weights()


@weights.command(short_help="Write the mean of several weights.")
@click.argument("sources", type=_Share(), nargs=-1, required=True)
@click.argument("destination", type=OutputFile())
@_LAYOUT
@_MODEL
def mean(**given: Any) -> None:
    """Write the mean of SOURCES to DESTINATION, each with its share, such as `dain=1 run/weights.safetensors=3`.

    Of weights that were trained on from one another it is often better than each.
    """
    start_pytorch()
    from dain_core.weights import commands

    commands.mean(**given)


@weights.command(short_help="Check that weights are complete and fit.")
@click.argument("source", default="dain")
@_MODEL
def verify(**given: Any) -> None:
    """Check that SOURCE, an installed model's name or a file, is complete and fits."""
    start_pytorch()
    from dain_core.weights import commands

    commands.verify(**given)
