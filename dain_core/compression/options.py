"""Options that the commands of compression share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dain_core.choices import LAYOUTS
from dain_core.options import Amount

Command = TypeVar("Command", bound=Callable[..., Any])


def learning_options(rate: float, fewest_steps: int, steps_help: str) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of how long, and on what, a network learns.

    Args:
        rate: the highest learning rate, if the caller names none.
        fewest_steps: the least value of `--steps`.
        steps_help: the help on `--steps`.
    """
    options = (
        click.option(
            "--minutes", type=Amount(0), help="Minutes to train for.  [default: 10, without --steps]"
        ),
        click.option("--steps", type=click.IntRange(fewest_steps), help=steps_help),
        click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="Triplets in a step."),
        click.option(
            "--crop", default=(256, 256), show_default=True, nargs=2, type=click.IntRange(64),
            help="Height and width of a triplet, multiples of 64.",
        ),
        click.option(
            "--rate", default=rate, show_default=True, type=Amount(0, min_open=True), help="The highest learning rate."
        ),
        click.option("--layout", default="fp16", show_default=True, type=click.Choice(LAYOUTS), help="How to store."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ..."),
        click.option("--seed", default=0, show_default=True),
    )  # fmt: skip

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
