"""docs/cli.md shows every command as it is."""

from __future__ import annotations

import re

from service.cli import COMMANDS
from tests import cli_pages


def test_the_reference_is_what_the_commands_say() -> None:
    page = cli_pages.PAGE.read_text()
    stale = set(cli_pages.written(page).splitlines()) ^ set(page.splitlines())
    assert not stale, "run `python -m tests.cli_pages`"


def test_every_command_has_an_example() -> None:
    examples, _, _ = cli_pages.PAGE.read_text().partition(cli_pages.REFERENCE)
    shown = set(re.findall(r"^ {4}.*$", examples, re.MULTILINE))
    assert not [name for name in COMMANDS if not any(f"dain {name}" in line for line in shown)]
