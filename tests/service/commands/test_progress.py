"""What a terminal shows of jobs that are under way."""

from __future__ import annotations

import io
import re

from rich.cells import cell_len
from rich.console import Console

from service.commands.progress import Bars


def test_a_row_leaves_room_for_what_the_terminal_shows_of_an_interrupt() -> None:
    """At the edge ^C would begin a new line, and the row would stay there for good."""
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=80)) as bars:
        bars.show("one", "clip.mp4", "queued", 0.5, "next")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert max(cell_len(row) for row in re.split(r"[\r\n]", shown)) == 78
