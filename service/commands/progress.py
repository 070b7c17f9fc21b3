"""How far jobs are: bars on a terminal; through a pipe a line at each step, every 10 % and every 30 s."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import click
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from service.commands.text import plain

STEPS = 10
SILENCE_SECONDS = 30.0


class Report(Protocol):
    """Where a command says what happens. `row` tells several jobs apart, `name` is what people call one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, row: object, name: str, stage: str, fraction: float | None, more: str = "") -> None:
        """The row is at a stage, such as ``uploading``, of which `fraction`, 0 to 1, is done, where that is known."""

    def end(self, row: object) -> None:
        """Nothing more comes of the row."""

    def say(self, line: str) -> None:
        """A line on standard error."""

    def result(self, line: str) -> None:
        """A line on standard output."""


def report() -> Report:
    """The report that suits standard error."""
    console = Console(stderr=True)
    return Bars(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


def _text(form: str, ratio: int | None = None) -> TextColumn:
    """A column of text; one with a `ratio` is cut where the terminal is narrow."""
    column = Column(no_wrap=True, overflow="ellipsis", ratio=ratio)
    return TextColumn(form, markup=False, table_column=column)


class _Rows(Progress):
    """Rows that end before the edge of the terminal, which shows Ctrl-C as ^C behind them.

    At the edge that would begin a new line: the rows would be drawn there again, and these would stay.
    """

    def get_renderable(self) -> RenderableType:
        return _Narrower(super().get_renderable())


@dataclass(frozen=True)
class _Narrower:
    rows: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Constrain(self.rows, options.max_width - len("^C"))


class Bars:
    """A bar for each row that is not over, and lines above them."""

    def __init__(self, console: Console) -> None:
        self._rows: dict[object, TaskID] = {}
        # Standard output may be a file: what goes there must not come here.
        self._progress = _Rows(
            _text("{task.fields[name]}", ratio=3),
            _text("{task.description}"),
            BarColumn(bar_width=16),
            _text("{task.fields[percent]:>4}"),
            _text("{task.fields[more]}", ratio=3),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            expand=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, row: object, name: str, stage: str, fraction: float | None, more: str = "") -> None:
        columns: dict[str, Any] = {
            "description": stage,
            "total": None if fraction is None else 1.0,
            "completed": fraction or 0.0,
            "percent": "" if fraction is None else f"{fraction:.0%}",
            "more": more,
        }
        if row in self._rows:
            self._progress.update(self._rows[row], **columns)
        else:
            self._rows[row] = self._progress.add_task(name=plain(name), **columns)

    def end(self, row: object) -> None:
        if row in self._rows:
            self._progress.remove_task(self._rows.pop(row))

    def say(self, line: str) -> None:
        # The terminal itself breaks the line: a command in it can be copied whole.
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def result(self, line: str) -> None:
        if sys.stdout.isatty():
            self.say(line)
        else:
            click.echo(line)


class Lines:
    """A line at each stage of a row, each tenth of it, and each half minute."""

    def __init__(self) -> None:
        self._said: dict[object, tuple[str, int, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, row: object, name: str, stage: str, fraction: float | None, more: str = "") -> None:
        now, step = time.monotonic(), int((fraction or 0.0) * STEPS)
        said_stage, said_step, said_at = self._said.get(row, ("", 0, now))
        if (stage, step) == (said_stage, said_step) and now - said_at < SILENCE_SECONDS:
            return
        self._said[row] = (stage, step, now)
        percent = "" if fraction is None else f" {fraction:.0%}"
        self.say(f"{plain(name)}: {stage}{percent}{more and ', ' + more}")

    def end(self, row: object) -> None:
        self._said.pop(row, None)

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def result(self, line: str) -> None:
        click.echo(line)
