"""Options of commands: what several of them share."""

from __future__ import annotations

import math
from pathlib import Path

import click

#: `--models`, for commands that take the name of a model.
models_option = click.option(
    "--models",
    type=click.Path(path_type=Path),
    envvar="DAIN_MODELS",
    help="Folder of models of your own; the setting DAIN_MODELS otherwise.",
)


class Amount(click.FloatRange):
    """A number in a range, which NaN is not: click lets it through."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        amount: float = super().convert(value, param, ctx)
        if math.isnan(amount):
            self.fail(f"{value!r} is no number", param, ctx)
        return amount
