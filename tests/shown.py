"""The commands that README and docs show, for tests that try them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.cli_pages import REFERENCE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("deploy/**/*.md"))]


def blocks() -> Iterator[tuple[str, list[str]]]:
    """Each block of code: where it begins, and its lines; none of what commands say of themselves."""
    for page in PAGES:
        text, _, _ = page.read_text().partition(REFERENCE)
        lines = enumerate(text.splitlines(), 1)
        for is_code, block in groupby(lines, key=lambda line: line[1].startswith("    ")):
            if is_code:
                numbers, code = zip(*block, strict=True)
                yield f"{page.relative_to(ROOT)}:{numbers[0]}", [line[4:] for line in code]


def commands(block: list[str]) -> Iterator[list[str]]:
    """The words of each command of a block, without variables before it and comments behind it."""
    for line in block:
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        try:
            yield from _between_signs(list(reader))
        except ValueError:  # a quotation that is not closed: no command, or one of several lines
            continue


def _between_signs(words: list[str]) -> Iterator[list[str]]:
    for is_sign, part in groupby(words, key=lambda word: set(word) <= set(";&|()<>")):
        command = list(part)
        while command and re.match(r"\w+=", command[0]):
            del command[0]
        if command and not is_sign:
            yield command
