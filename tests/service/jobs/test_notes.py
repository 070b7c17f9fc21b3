from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from service.jobs.notes import NOTES, Note, refusal, sentences
from service.jobs.records import StoredNote

HELD = Note.of("frames-held", "1 frame could not be decoded.", time="1/25")


def test_a_note_is_stored_and_read_again_with_what_a_later_release_added() -> None:
    assert HELD.as_dict() == {"code": "frames-held", "text": "1 frame could not be decoded.", "time": "1/25"}
    later = {**HELD.as_dict(), "code": "of-tomorrow", "severity": 3}
    [read] = Note.read_all([later])
    assert read.as_dict() == later and not read.loses


@pytest.mark.parametrize(
    "stored", [None, 1, [], {}, {"text": 1}, {"text": "a", "code": []}, {"text": "a", "stream": "1"}]
)
def test_what_is_no_note_is_refused(stored: object) -> None:
    with pytest.raises(ValueError, match="no note"):
        Note.read(stored)


def test_what_a_later_release_added_takes_no_methods_place() -> None:
    note = Note.read({"text": "a", "as_dict": 1, "loses": 2})
    assert note.as_dict() == {"code": "note", "text": "a"} and not note.loses


def test_a_job_keeps_and_shows_what_a_later_release_added() -> None:
    later = {**HELD.as_dict(), "severity": 3}
    adapter = TypeAdapter(list[StoredNote])
    assert adapter.dump_python(adapter.validate_python([later, "Plain."])) == [
        {**later, "stream": None},
        {"code": "note", "text": "Plain.", "stream": None, "time": None},
    ]
    with pytest.raises(ValidationError):
        adapter.validate_python([{"code": "frames-held"}])


def test_a_plain_sentence_is_a_note() -> None:
    assert Note.read_all(["Plain."]) == (Note(code="note", text="Plain."),)


def test_a_new_note_has_a_code_of_the_table() -> None:
    with pytest.raises(KeyError):
        Note.of("frames-hold", "…")
    assert all(meaning and not meaning.endswith(".") for _, meaning in NOTES.values())


def test_the_documentation_has_every_code_and_its_meaning() -> None:
    page = (Path(__file__).parents[3] / "docs/media.md").read_text()
    rows = {f"| `{code}` | {'yes' if lost else ''} | {meaning} |" for code, (lost, meaning) in NOTES.items()}
    assert not rows.difference(page.splitlines())


def test_a_note_has_no_character_that_a_terminal_acts_on() -> None:
    assert Note(text="a\x1b[2Jb\u202ec").text == "a\ufffd[2Jb\ufffdc"


def test_a_strict_job_is_refused_where_something_is_lost_alone() -> None:
    assert not refusal([Note.of("times-restart", "…"), Note(text="Plain.")])
    assert "1 frame could not be decoded." in refusal([Note.of("times-restart", "…"), HELD])


def test_a_sentence_is_shown_once_with_all_its_times() -> None:
    cuts = [Note.of("scene-cut", "A cut.", time=time) for time in ("1", "5/2", "1")]
    assert list(sentences([Note(text="Plain."), *cuts, HELD])) == [
        "Plain.",
        "A cut. (At 1.00, 2.50 s.)",
        "1 frame could not be decoded. (At 0.04 s.)",
    ]
