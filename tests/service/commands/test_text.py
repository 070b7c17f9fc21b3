from __future__ import annotations

import io
import sys

import pytest

from service.client import Job, Note
from service.commands import progress, text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0.2, "0 s"), (59, "59 s"), (150, "2 min"), (7200, "2 h"), (9e5, "10 d")],
)
def test_times_are_short(seconds: float | None, words: str) -> None:
    assert text.span(seconds) == words


def test_progress_tells_what_is_known() -> None:
    waits = Job.of({"id": "1", "status": "queued", "progress": {"queue_position": 3, "eta_seconds": 90}})
    works = Job.of(
        {"id": "1", "status": "running", "progress": {"fps": 12.34, "eta_seconds": 20, "fraction": 0.5}}
    )
    assert (text.progress(waits), text.progress(works)) == ("3 before it, 2 min left", "12.3 fps, 20 s left")


def test_a_note_is_told_once_with_all_its_times() -> None:
    notes = [Note(text="A cut.", time="1/2"), Note(text="No sound."), Note(text="A cut.", time="3")]
    assert text.sentences(notes) == ["A cut. (At 0.50, 3.00 s.)", "No sound."]


def test_a_table_is_cut_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("1", "\x1b[31m映画の名前.mp4" + 80 * "x"), ("22", "b")]
    whole = text.table(("N", "FILE"), rows, right=("N",))
    assert (
        whole[0] == " N  FILE" and whole[2] == "22  b" and whole[1].endswith("xxx") and "\x1b" not in whole[1]
    )
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    narrow = text.table(("N", "FILE"), rows)
    assert narrow[1].endswith("…") and text.cell_len(narrow[1]) == 30


def test_a_line_is_broken_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "a-worker-of-some-machine  " + ", ".join(["segment-3 of 019ad57e1c80a3d74c1f2b9e6a05"] * 4)
    assert text.wrapped(line) == line
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    first, *others = text.wrapped(line).splitlines()
    assert first.startswith("a-worker")
    assert others and all(other.startswith("    ") for other in others)
    assert max(map(len, (first, *others))) <= 80


def test_through_a_pipe_there_is_a_line_each_tenth_and_each_half_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.report() as said:
        said.show(1, "a.mp4", "queued", None, "3 before it")
        for percent in range(0, 31):
            said.show(1, "a.mp4", "running", percent / 100, "9.0 fps")
        now = 31.0
        said.show(1, "a.mp4", "running", 0.31)
        said.result("a result")
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "a.mp4: queued, 3 before it",
        "a.mp4: running 0%, 9.0 fps",
        "a.mp4: running 10%, 9.0 fps",
        "a.mp4: running 20%, 9.0 fps",
        "a.mp4: running 30%, 9.0 fps",
        "a.mp4: running 31%",
    ]
    assert printed.out == "a result\n"


@pytest.mark.parametrize(
    ("width", "name", "more"),
    [
        (80, "a long name of a video that does not fit.mp4", "12.3 fps, 59 min left"),
        (60, "a.mp4", "12.3 fps, 1000 before it, 59 min left"),
    ],
)
def test_a_bar_is_whole_where_the_words_beside_it_are_too_long(width: int, name: str, more: str) -> None:
    screen = io.StringIO()
    console = progress.Console(file=screen, force_terminal=True, width=width, color_system=None)
    with progress.Bars(console) as said:
        said.show(1, name, "running", 0.5, more)
    row = next(line.split("\x1b[2K")[-1] for line in screen.getvalue().splitlines() if "running" in line)
    assert text.cell_len(row) == width - len("^C") and "…" in row  # which the terminal shows behind it
    assert f" running {8 * '━'}{8 * ' '}  50% 12.3 fps" in row


def test_a_command_that_is_said_is_one_line_on_a_narrow_terminal() -> None:
    screen = io.StringIO()
    console = progress.Console(file=screen, force_terminal=True, width=40, color_system=None)
    with progress.Bars(console) as said:
        said.say(f"    dain fetch {'a' * 28} {'b' * 28}")
    assert f"    dain fetch {'a' * 28} {'b' * 28}\n" in screen.getvalue()
