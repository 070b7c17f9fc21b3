"""Presents the results as tables on the terminal, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, NamedTuple

from rich.table import Table

from dain_core.evaluation.page import figures_table, render
from dain_core.evaluation.run import Results
from dain_core.evaluation.scores import METRICS, Score, Summary, summarise

#: The name of the group of all scores.
ALL = "all"


class Line(NamedTuple):
    """A row of a table.

    Attributes:
        group: the clip or the time of the scores.
        method: the name of the method.
        figures: the summary of each metric, by the keys of METRICS.
    """

    group: str
    method: str
    figures: dict[str, Summary]


@dataclass(frozen=True)
class Report:
    """The report of one run of `dain eval`.

    Attributes:
        title: the title.
        notes: sentences that a reader needs to understand the figures.
        results: all scores, and the cases to show.
    """

    title: str
    notes: Sequence[str]
    results: Results

    def tables(self) -> list[Table]:
        """Return tables for the terminal: means, means over the worst tenth in brackets, and the best mean in bold."""
        return [_table(heading, lines) for heading, lines in self._groups().items() if lines]

    def document(self) -> dict[str, Any]:
        """Return the results for JSON: the summaries, and the scores of all frames."""
        summaries: dict[str, dict[str, dict[str, Any]]] = {}
        for heading, lines in self._groups().items():
            for line in lines:
                figures = {key: asdict(summary) for key, summary in line.figures.items()}
                summaries.setdefault(heading, {}).setdefault(line.group, {})[line.method] = figures
        scores = [asdict(score) for score in (*self.results.scores, *self.results.depths)]
        return {"title": self.title, "notes": list(self.notes), **summaries, "scores": scores}

    def page(self) -> str:
        """Return the results as an HTML page: the tables and the worst cases."""
        figures = "".join(_html(heading, lines) for heading, lines in self._groups().items() if lines)
        return render(self.title, self.notes, figures, self.results.worst)

    def _groups(self) -> dict[str, list[Line]]:
        scores = self.results.scores
        several = len({score.time for score in scores}) > 1
        by_time = _lines(scores, lambda score: f"t = {score.time:.3g}") if several else []
        return {
            "clip": _lines(scores, lambda score: score.clip),
            "time": [line for line in by_time if line.group != ALL],
            "depth": _lines(self.results.depths, lambda score: score.clip),
        }


def _lines(scores: Sequence[Score], group: Callable[[Score], str]) -> list[Line]:
    """Return a line for each group and method, in the order of the scores.

    If there are several groups, a line over all scores follows for each method.
    """
    cells: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        cells.setdefault((group(score), score.method), []).append(score)
    if len({name for name, _ in cells}) > 1:
        for score in scores:
            cells.setdefault((ALL, score.method), []).append(score)
    return [Line(*names, summarise(found)) for names, found in cells.items()]


def _table(heading: str, lines: Sequence[Line]) -> Table:
    made = Table(caption="mean over frames (mean over the worst tenth of them)")
    made.add_column(heading)
    made.add_column("method")
    keys = _keys(lines)
    for key in keys:
        made.add_column(METRICS[key].heading, justify="right")
    for index, line in enumerate(lines):
        begins = _begins(lines, index)
        if begins and index:
            made.add_section()
        cells = [_cell(lines, line, key, "[bold]{}[/bold]", " [dim]({})[/dim]") for key in keys]
        made.add_row(line.group if begins else "", line.method, *cells)
    return made


def _html(heading: str, lines: Sequence[Line]) -> str:
    keys = _keys(lines)
    begins = {index for index in range(len(lines)) if _begins(lines, index)}
    rows = [
        [
            escape(line.group) if index in begins else "",
            escape(line.method),
            *(_cell(lines, line, key, "<b>{}</b>", " <small>{}</small>") for key in keys),
        ]
        for index, line in enumerate(lines)
    ]
    return figures_table(
        [heading, "method", *(f"{METRICS[key].heading}, worst tenth" for key in keys)], rows, begins
    )


def _begins(lines: Sequence[Line], index: int) -> bool:
    return index == 0 or lines[index - 1].group != lines[index].group


def _cell(lines: Sequence[Line], line: Line, key: str, best: str, tenth: str) -> str:
    """Return a cell with the mean and the mean over the worst tenth. The best mean of a group has the format `best`."""
    if key not in line.figures:
        return ""
    metric, figure = METRICS[key], line.figures[key]
    rivals = [
        other.figures[key].mean for other in lines if other.group == line.group and key in other.figures
    ]
    leads = len(rivals) > 1 and figure.mean == (max if metric.higher else min)(rivals)
    mean = f"{figure.mean:{metric.form}}"
    return (best.format(mean) if leads else mean) + tenth.format(f"{figure.worst_decile:{metric.form}}")


def _keys(lines: Sequence[Line]) -> list[str]:
    return [key for key in METRICS if any(key in line.figures for line in lines)]
