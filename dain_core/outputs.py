"""Files that commands write: refused at once if they have no folder, and named if they cannot be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


class OutputFile(click.Path):
    """A file to be written, hours from now perhaps: its folder must be there."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent} to write {path.name} to: make it first", param, ctx)
        return path


def check_writable(path: Path) -> None:
    """Refuse before the work, by the command's error, what could not be written after it."""
    with writing(path), tempfile.TemporaryFile(dir=path.parent):
        pass


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes what the system says of writing `path` the command's error."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(
            f"cannot write {path}: {error.strerror}. Make room, or name a place that can be written to."
        ) from error
