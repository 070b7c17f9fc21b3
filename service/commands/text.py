"""What people read of jobs and workers: times, tables, sentences."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from fractions import Fraction

from rich.cells import cell_len, set_cell_size
from rich.filesize import decimal

from service.client import Job, Note

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def span(seconds: float | None) -> str:
    """A time in its largest unit, such as ``3 min``; empty where it is unknown."""
    if seconds is None:
        return ""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s"


def moment(seconds: float) -> str:
    """A time since the epoch by this machine's clock, such as ``2026-12-01 14:03:20``."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


def size(number: float) -> str:
    """A number of bytes, such as ``1.2 GB``."""
    return decimal(int(number))


def progress(job: Job) -> str:
    """How far a job that is not over is, such as ``12.3 fps, 3 min left``."""
    now = job.progress
    parts = []
    if job.status == "queued" and now.queue_position is not None:
        parts.append(f"{now.queue_position} before it" if now.queue_position else "next")
    if now.fps:
        parts.append(f"{now.fps:.1f} fps")
    if now.eta_seconds is not None:
        parts.append(f"{span(now.eta_seconds)} left")
    return ", ".join(parts)


def sentences(notes: Iterable[Note]) -> list[str]:
    """What notes say: each sentence once, with all the times at which it is so."""
    times: dict[str, list[str]] = {}
    for note in notes:
        times.setdefault(note.text, []).extend([f"{float(Fraction(note.time)):.2f}"] if note.time else [])
    return [f"{text} (At {', '.join(dict.fromkeys(at))} s.)" if at else text for text, at in times.items()]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> list[str]:
    """The lines of a table. On a terminal that is too narrow the last column is cut; through a pipe nothing is."""
    cells = [list(map(plain, row)) for row in (columns, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return [
        cut("  ".join(map(_padded, row, widths, (name in right for name in columns))), most) for row in cells
    ]


def _padded(text: str, width: int, right: bool) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def cut(line: str, most: int | None) -> str:
    """`line` without blanks at its end, in `most` cells of a terminal; None: whole."""
    line = line.rstrip()
    return line if most is None or cell_len(line) <= most else f"{set_cell_size(line, most - 1)}…"


def wrapped(line: str, indent: int = 4) -> str:
    """`line` broken to the width of the terminal; through a pipe it stays one line."""
    if not sys.stdout.isatty():
        return plain(line)
    width = shutil.get_terminal_size().columns
    return textwrap.fill(plain(line), width, subsequent_indent=" " * indent, break_on_hyphens=False)


def plain(text: str) -> str:
    """`text` without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
