"""Notes on a job: what of its video did not come through as it was, and what was found in it.

A note is a sentence for people with a code for programs, as a problem is. A strict job is refused where a note says
that something is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Self

#: Characters that a terminal or a log would act on: controls (C0 and C1), separators of lines, and those that turn the
#: direction of what follows.
UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"

#: Whether something of the video is lost, and what happened, by code. A code is part of the interface: clients tell
#: notes apart by it.
NOTES: dict[str, tuple[bool, str]] = {
    "note": (False, "An earlier release wrote this note, and gave it no code"),
    # the file
    "times-restart": (False, "The file's times start again; its pieces follow each other in the result"),
    "times-disordered": (False, "The file gives its pictures times in another order than their own"),
    "times-gap": (False, "The file's times jump ahead; the frame before the gap is held"),
    "file-truncated": (True, "The file breaks off before its end; what comes before the break is taken"),
    # the picture
    "frames-lost": (True, "Frames cannot be decoded; new ones are made in their place"),
    "frames-damaged": (True, "Frames are damaged; what could be decoded of them is shown"),
    "size-changes": (True, "Frames of another size are scaled to that of the others, with their shape kept"),
    "frames-held": (True, "Frames cannot be decoded; the frame before stands in their place"),
    "interlaced": (False, "The video is interlaced or telecined, and stays so as it was asked for"),
    "deinterlaced": (False, "The video is interlaced; each field becomes a frame"),
    "telecine-undone": (False, "Film was made a faster video; its own frames are taken, at even times"),
    "frames-unsure": (
        False,
        "An estimate counts frames by the first pictures, or by flags; the job may find others",
    ),
    "frames-repeat": (False, "Frames repeat the one before; new frames lead from picture to picture"),
    "scene-cut": (False, "One scene ends and the next begins; no frame is made of both"),
    "alpha-dropped": (True, "The result cannot be transparent; the picture is shown on a background"),
    "light-clipped": (True, "Pictures hold light as such; what is brighter than white is white"),
    "one-view": (True, "Of a spatial video one view is taken"),
    # the sound
    "audio-encoded": (True, "A sound track is encoded again, and loses by it"),
    "audio-converted": (False, "A sound track is encoded again, and loses nothing"),
    "audio-depth": (True, "A sound track has fewer bits a sample than it had"),
    "audio-stretched": (False, "A sound track is stretched to the speed of slow motion"),
    "audio-dropped": (True, "A sound track is left out"),
    # the other streams
    "subtitles-converted": (True, "A subtitle track loses its style"),
    "subtitles-dropped": (True, "A subtitle track is left out"),
    "stream-copied": (False, "A further video stream comes along as it is, without new frames"),
    "stream-dropped": (True, "A cover picture, an attachment, a stream of data or of video is left out"),
    "chapters-dropped": (True, "The chapters are left out"),
    "tags-dropped": (True, "What the file says of itself, or the language or a mark of a track, is left out"),
    "captions-converted": (True, "Closed captions within the pictures become a subtitle track"),
    "captions-dropped": (True, "Closed captions within the pictures are left out"),
    "side-data-dropped": (True, "Something that describes the pictures is left out"),
    # the result
    "pixels-depth": (True, "The pictures have fewer bits a sample than they had"),
    "pixels-chroma": (True, "The pictures have less resolution of colour than they had"),
    "pixels-range": (True, "The pictures have fewer levels between black and white than they had"),
    "pixels-palette": (True, "The pictures have a palette in the result"),
    "pixels-padded": (False, "The pictures have an even size in the result"),
    "times-rounded": (False, "The result counts time more coarsely than its frames follow each other"),
    "times-unplayable": (False, "Browsers show the result more slowly than it is"),
    "pixels-unplayable": (False, "The result has pixels that browsers and most televisions do not play"),
}


@dataclass(frozen=True, kw_only=True)
class Note:
    """A note. What is stored as plain text, by an earlier release, is one without a code of its own."""

    # A model of Pydantic would make each process that looks into a file import that, for nothing else.
    __pydantic_config__ = {"extra": "allow"}

    code: str = field(default="note", metadata={"description": "what happened, for programs"})
    text: str = field(metadata={"description": "what happened, in a sentence"})
    stream: int | None = field(
        default=None, metadata={"description": "number of the stream in the file that it is about"}
    )
    time: str | None = field(
        default=None,
        metadata={
            "description": "when it is in the source, in seconds after its beginning, as a fraction such as 1001/30000"
        },
    )

    def __post_init__(self) -> None:
        printable = re.sub(f"[{UNPRINTABLE}]", "\N{REPLACEMENT CHARACTER}", self.text)
        object.__setattr__(self, "text", printable)

    @classmethod
    def of(cls, code: str, text: str, *, stream: int | None = None, time: object = None) -> Self:
        """A new note. KeyError where `code` is none of `NOTES`."""
        if code not in NOTES:
            raise KeyError(code)
        return cls(code=code, text=text, stream=stream, time=None if time is None else str(time))

    @classmethod
    def read(cls, stored: Any) -> Self:
        """The note that was stored, with the fields that a later release gave it. ValueError where it is none.

        >>> Note.read("The sound was left out.").code
        'note'
        """
        if isinstance(stored, cls):
            return stored
        document = {"text": stored} if isinstance(stored, str) else stored if isinstance(stored, dict) else {}
        match {"code": "note", "stream": None, "time": None, **document}:
            case {
                "code": str(code),
                "text": str(text),
                "stream": int() | None as stream,
                "time": str() | None as time,
                **more,
            }:
                note = cls(code=code, text=text, stream=stream, time=time)
                vars(note).update((name, value) for name, value in more.items() if not hasattr(cls, name))
                return note
        raise ValueError("this is no note")

    @classmethod
    def read_all(cls, stored: Iterable[Any]) -> tuple[Self, ...]:
        """The notes of a list that was stored."""
        return tuple(map(cls.read, stored))

    @property
    def loses(self) -> bool:
        """Whether something of the video is lost, as far as this release knows the code."""
        return NOTES.get(self.code, NOTES["note"])[0]

    def as_dict(self) -> dict[str, Any]:
        """The note as it is stored."""
        return {name: value for name, value in vars(self).items() if value is not None}


def refusal(notes: Iterable[Note]) -> str:
    """Why a strict job with these notes is refused, as sentences; empty where nothing is lost."""
    lost = " ".join(note.text for note in notes if note.loses)
    return (
        lost
        and f"The job is strict, and would lose something. {lost} Without strict, the result is made anyway."
    )


def sentences(notes: Iterable[Note]) -> Iterator[str]:
    """What a terminal shows of notes: each sentence once, with all the times at which it is so."""
    times: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        times.setdefault(note.text, []).extend([f"{float(Fraction(note.time)):.2f}"] if note.time else [])
    for text, at in times.items():
        yield f"{text} (At {', '.join(at)} s.)" if at else text
