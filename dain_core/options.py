"""What several commands share: options, and groups whose help does not wait for PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

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


def start_pytorch() -> None:
    """Say what a command that is to import PyTorch waits for."""
    click.echo("Starting PyTorch.", err=True)


class LateGroup(click.Group):
    """A group whose commands are imported when they are used, since they import PyTorch.

    Args:
        late: by the name of each command the module that it is in, its name there, and its help in the list.
    """

    def __init__(self, *args: Any, late: Mapping[str, tuple[str, str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late = late

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._late)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, _, words) in self._late.items()])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self._late:
            return None
        if not ctx.resilient_parsing:  # as a shell does that completes words
            start_pytorch()
        module, attribute, _ = self._late[name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=words)
            for name, (_, _, words) in self._late.items()
            if name.startswith(incomplete)
        ]
        return found or click.Command.shell_complete(self, ctx, incomplete)  # which knows the options
