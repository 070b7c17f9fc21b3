"""Renders the results as one HTML page that needs no other file: figures and the worst cases."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from dain_core.evaluation.cases import REASONS, Case, Row, Worst

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1700px; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em }
h2 { margin-top: 2em }
h3 { margin: 2em 0 0 }
h3 + p { margin: .2em 0 .5em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .2em .9em; border-bottom: 1px solid #ddd; text-align: right }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
tr.first td { border-top: 2px solid #aaa }
small { color: #888 }
.row { display: flex; gap: 4px; margin-bottom: 4px }
figure { margin: 0; flex: 1 1 0; min-width: 0; max-width: 420px }
figure img { width: 100%; display: block; cursor: zoom-in }
.png img, dialog img { image-rendering: pixelated }
figcaption { font-size: 12px; color: #555 }
dialog { border: 0; padding: 0; background: #000; color: #fff; max-width: 100vw; max-height: 100vh }
dialog p { margin: .4em 1em }
dialog img { display: block; width: 98vw; height: 92vh; object-fit: contain }
"""

_SCRIPT = """
const dialog = document.querySelector("dialog"), large = dialog.querySelector("img"), text = dialog.querySelector("p");
let row = [], at = 0;
function show(step) {
  at = (at + step + row.length) % row.length;
  large.src = row[at].src;
  text.textContent = row[at].alt;
}
document.querySelectorAll("figure img").forEach(image => image.onclick = () => {
  row = [...image.closest(".row").querySelectorAll("img")];
  at = row.indexOf(image);
  show(0);
  dialog.showModal();
});
dialog.onclick = () => dialog.close();
dialog.onkeydown = event => show({ArrowRight: 1, ArrowLeft: -1}[event.key] || 0);
"""


def render(title: str, notes: Sequence[str], figures: str, worst: Worst) -> str:
    """Return the page as HTML.

    Args:
        title: the title.
        notes: sentences that a reader needs to understand the figures.
        figures: tables as HTML, as `figures_table` makes them.
        worst: the cases to show.
    """
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes), figures]
    for reason, heading in REASONS.items():
        if cases := worst.cases(reason):
            parts += [f"<h2>{heading}</h2>", *map(_case, cases)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n"
        f"<dialog><p></p><img alt=''></dialog>\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def figures_table(headings: Sequence[str], rows: Sequence[Sequence[str]], groups: set[int]) -> str:
    """Return a table as HTML.

    Args:
        headings: the headings of the columns, as text.
        rows: the cells of each row, as HTML.
        groups: the indices of the rows that begin a new group.
    """
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = [
        f"<tr{' class=first' if index in groups else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for index, row in enumerate(rows)
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _case(case: Case) -> str:
    lines = [f"<h3>{escape(case.heading)}</h3>", f"<p>{escape(case.verdict)}</p>", *map(_row, case.rows)]
    return "\n".join(lines)


def _row(row: Row) -> str:
    figures = ["<figure></figure>"] * row.skip
    for name, picture in row.pictures.items():
        source = f"data:image/{row.kind};base64,{base64.b64encode(picture).decode()}"
        caption = escape(name.strip())
        figures.append(
            f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        )
    return f'<div class="row {row.kind}">{"".join(figures)}</div>'
