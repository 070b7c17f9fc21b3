"""Fields: how a video's pictures are made of the two halves that an interlaced one is stored in.

The chosen way is a word of `WAYS`, which a plan keeps. Its filters are FFmpeg's. They look at the frame before and the
one after, and no further, so what they make of a frame does not depend on where decoding began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

from service.jobs.notes import Note

BOB = "bwdif=mode=send_field:parity={order}:deint=all"
#: Fields that belong to one picture are put together; what is still combed then is deinterlaced.
WEAVE = (
    "fieldmatch=order={order}:combmatch=full:combpel=20,bwdif=mode=send_frame:parity={order}:deint=interlaced"
)

#: Way -> its filters, and the number of frames that it makes of one; "" is as stored.
WAYS: dict[str, tuple[str, int]] = {
    "": ("", 1),
    **{f"bob-{order}": (BOB.format(order=order), 2) for order in ("tff", "bff")},
    **{f"weave-{order}": (WEAVE.format(order=order), 1) for order in ("tff", "bff")},
}


SMALLEST = 8  # samples on a side, of a picture that has fields
LEAST_FRAMES = 8  # that are combed, or whole, for a video to be taken for what its flags do not say
CYCLE = 5  # frames of hard telecine: of these, one repeats its top field and one its bottom field
STEADY = 0.7  # the share of cycles that must be so
#: Pixel formats that the filter that matches fields takes.
MATCHED = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv411p", "gray"}


@dataclass(frozen=True)
class Piece:
    """What some consecutive frames show."""

    #: Of each frame: "tff", "bff", "progressive" or "undetermined"
    scans: list[str] = field(default_factory=list)
    #: The field that is that of the frame before: "top", "bottom"
    repeats: list[str] = field(default_factory=list)
    #: of each frame but the first: how far it differs from the one before in levels of 8 bits, as the mean over the
    #: square that differs most, and as the root of the sum of squares in a picture that is blurred a little, and much
    changes: list[tuple[float, float, float]] = field(default_factory=list)


class Stored(Protocol):
    """How pictures are stored, as a `VideoInfo` says it."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pixel_format(self) -> str: ...
    @property
    def field_order(self) -> str: ...
    @property
    def is_rgb(self) -> bool: ...


def choose(info: Stored, wanted: str, pieces: Sequence[Piece]) -> tuple[str, list[Note]]:
    """The way for a video of these ``pieces`` where ``wanted`` is the option ``deinterlace``, and notes on it."""
    if min(info.width, info.height) < SMALLEST or info.is_rgb:
        return "", []
    order = _order(info, pieces)
    if wanted in ("bob", "weave"):
        return f"{wanted}-{order or 'tff'}", []
    if _is_telecined(pieces) and info.pixel_format in MATCHED:
        if wanted == "off":
            return "", [
                Note.of("interlaced", "The video is telecined film, and stays so: deinterlace is off.")
            ]
        what = "The video is film in a faster interlaced one (3:2 telecine). Its own frames are taken out of that."
        return f"weave-{order or 'tff'}", [Note.of("telecine-undone", what)]
    if not order:
        return "", []
    if wanted == "off":
        return "", [Note.of("interlaced", "The video is interlaced, and its combs stay: deinterlace is off.")]
    what = "The video is interlaced. Each of its fields becomes a frame (bwdif): twice as many as it has."
    return f"bob-{order}", [Note.of("deinterlaced", what)]


def frames_of_one(info: Stored, piece: Piece) -> Fraction:
    """How many frames a job makes of one frame of a video of which ``piece`` is the beginning, if all is like that."""
    way, _ = choose(info, "auto", [piece])
    return Fraction(CYCLE - 1, CYCLE) if way.startswith("weave") else Fraction(rate(way))


def _order(info: Stored, pieces: Sequence[Piece]) -> str:
    """Which field comes first in an interlaced video: "tff" or "bff"; "" where it is progressive.

    Flags are often wrong: a video that is flagged is interlaced unless nearly all of its pictures that tell are whole,
    and one that is not is interlaced where most of its pictures are combed.
    """
    scans = Counter(scan for piece in pieces for scan in piece.scans)
    order = max(("tff", "bff"), key=lambda name: scans[name])
    combed, whole, frames = scans[order], scans["progressive"], sum(scans.values())
    if info.field_order:
        is_whole = whole > 3 * combed and whole >= min(LEAST_FRAMES, frames / 2)
        return "" if is_whole else order if combed else info.field_order
    is_combed = combed >= LEAST_FRAMES and combed >= 0.6 * frames and combed > 3 * whole
    return order if is_combed else ""


def _is_telecined(pieces: Sequence[Piece]) -> bool:
    """Whether one frame of every five repeats a top field, and another a bottom field, always at the same place."""
    steady = [_keeps_time(piece.repeats, "top") and _keeps_time(piece.repeats, "bottom") for piece in pieces]
    return bool(steady) and all(steady)


def _keeps_time(repeats: Sequence[str], name: str) -> bool:
    places = Counter(k % CYCLE for k, repeat in enumerate(repeats) if repeat == name)
    cycles = len(repeats) // CYCLE
    return cycles >= 3 and max(places.values(), default=0) >= STEADY * max(cycles, places.total())


def filtered(frames: Any, way: str) -> Any:
    """``frames`` of ffmpeg-python, with the filters of ``way``."""
    for each in filter(None, WAYS[way][0].split(",")):
        name, _, options = each.partition("=")
        frames = frames.filter(name, **dict(option.split("=") for option in options.split(":")))
    return frames


def rate(way: str) -> int:
    """How many frames ``way`` makes of one."""
    return WAYS[way][1]


def unit(time_base: Fraction, way: str) -> Fraction:
    """The clock on which the frames that ``way`` makes have exact times, of frames on the clock ``time_base``."""
    return time_base / rate(way)
