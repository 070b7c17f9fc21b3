"""``dain weights``: look at, check, convert, average and fetch model weights."""

from __future__ import annotations

import click

from dain_core.errors import DainCoreError
from dain_core.options import LateGroup

COMMANDS = {
    "convert": (
        "dain_core.weights.commands",
        "convert",
        "Write weights, such as the authors', as safetensors.",
    ),
    "download": ("dain_core.weights.commands", "download", "Fetch the authors' checkpoint (96 MB)."),
    "list": ("dain_core.weights.commands", "list_weights", "List the weights that come with the project."),
    "mean": ("dain_core.weights.commands", "mean", "Write the mean of several weights."),
    "verify": ("dain_core.weights.commands", "verify", "Check that weights are complete and fit."),
}


class _Weights(LateGroup):
    """Reports an error of the weights as one of the command, not of the program."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DainCoreError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Weights, late=COMMANDS)
def weights() -> None:
    """Model weights: what is installed, and files of your own."""
