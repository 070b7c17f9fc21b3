"""Files that commands make: refused before the work where a file would be lost, and given their names after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click


def check_free(result: Path, sources: Iterable[Path], overwrite: bool, hint: str) -> None:
    """Refuse a `result` that cannot be written, or whose writing would lose a file; `sources` are never replaced.

    Raises:
        click.BadParameter: of the argument that `hint` names.
    """
    if not result.parent.is_dir():
        fault = f"there is no folder {result.parent} to write {result.name} to: make it first"
    elif result.is_dir():
        fault = f"{result} is a folder: name a file"
    elif not os.access(result.parent, os.W_OK):
        fault = f"{result.parent} cannot be written to: name a folder that can"
    elif not os.path.lexists(result):
        return
    elif result.exists() and any(result.samefile(source) for source in sources):
        fault = f"{result} is the video itself, which is never replaced: give the result another name"
    elif result.exists() and not result.is_file():
        fault = f"{result} is a device, a pipe or the like, which is never replaced: name a file"
    elif not overwrite:
        fault = f"there is a file {result} already: give the result another name, or say --overwrite"
    else:
        return
    raise click.BadParameter(fault, param_hint=hint)


def publish(whole: Path, result: Path, overwrite: bool) -> Path:
    """Give the finished file its name, and return it.

    A file that came there meanwhile is not lost, and neither is the work: the result gets another name beside it.
    """
    if not overwrite:
        taken = result
        while os.path.lexists(result):
            result = result.with_stem(f"{result.stem}-new")
        if result != taken:
            click.echo(
                f"Another program made {taken} meanwhile: it stays, and the result has another name.",
                err=True,
            )
    whole.replace(result)
    return result
