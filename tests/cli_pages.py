"""Writes what docs/cli.md says of every command from the commands themselves: `python -m tests.cli_pages`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from service import cli
from service.exits import Exit

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
CODES = ("<!-- exit codes -->\n", "<!-- end of exit codes -->\n")
REFERENCE = "## Reference\n"


def written(page: str) -> str:
    """The page, with the table of exit codes and the reference as they should be."""
    before, _, rest = page.partition(CODES[0])
    _, _, after = rest.partition(CODES[1])
    after, _, _ = after.partition(REFERENCE)
    return before + CODES[0] + _codes() + CODES[1] + after + REFERENCE + _reference()


def _codes() -> str:
    rows = (f"| {code:d} | {code.meaning} |\n" for code in Exit)
    return "\n| code | meaning |\n| --- | --- |\n" + "".join(rows) + "\n"


def _reference() -> str:
    parts = [
        "\nWhat each command says of itself with `--help`. `python -m tests.cli_pages` writes this part.\n"
    ]
    for words, command in commands():
        command._help_option = None  # a test may have run it by itself, where it has no -h
        said = CliRunner(env={"COLUMNS": "80"}).invoke(cli.cli, [*words, "--help"], prog_name="dain").stdout
        parts.append(f"### dain {' '.join(words)}\n\n```text\n{said.rstrip()}\n```\n")
    return "\n".join(parts)


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words, and those within groups."""
    for name, entry in cli.COMMANDS.items():
        command = cli.load(name, entry)
        yield (name,), command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for inner in command.list_commands(context):
                if each := command.get_command(context, inner):
                    yield (name, inner), each


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
