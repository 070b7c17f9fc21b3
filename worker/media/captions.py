"""Closed captions within pictures (CEA-608 and CEA-708), and the frames of the result that carry them.

A picture carries some of the captions' bytes in triplets, as ATSC A/53 part 4 says. Each source frame's come to the
frame that the result shows in its place. The frames between carry none.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from worker.media.messages import CAPTIONS, LATE

MOST = 31  # triplets of a picture
SCENARIST = "Scenarist_SCC V1.0\n\n"
ERASE, SILENCE = b"\x94\x2c", b"\x80\x80"
TICK = Fraction(1, 30)  # seconds


def triplets(message: bytes) -> bytes:
    """The triplets of a message, without those that say nothing."""
    data = message.removeprefix(CAPTIONS)
    if len(data) < 2 or not data[0] & 0x40:
        return b""
    each = _each(data[2 : 2 + 3 * (data[0] & 31)])
    return b"".join(triplet for triplet in each if _says(triplet))


def message(triplets: bytes) -> bytes:
    """The message that carries ``triplets``, `MOST` of them at most."""
    return CAPTIONS + bytes([0x40 | len(triplets) // 3, 0xFF]) + triplets + b"\xff"


def scenarist(captions: Iterable[tuple[Fraction, bytes]], begin: Fraction, end: Fraction) -> str:
    """What CEA-608 says in its first field from ``begin`` to ``end``, as a file of Scenarist Closed Captions.

    It is empty where nothing is said. Its clock begins at ``begin``, and counts thirtieths of a second.
    """
    said = [
        (time - begin, [each[1:] for each in _each(triplets) if not each[0] & 3])
        for time, triplets in captions
        if begin <= time < end
    ]
    spoken = [(time, pairs) for time, pairs in said if pairs]
    length = end - begin
    # FFmpeg leaves the last line out.
    last = [(max(length - TICK, Fraction(0)), [ERASE]), (length, [SILENCE])]
    return "".join([SCENARIST, *(_line(time, pairs) for time, pairs in [*spoken, *last])]) if spoken else ""


def _line(time: Fraction, pairs: Iterable[bytes]) -> str:
    seconds, frame = int(time), int(time % 1 * 30)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frame:02}"
    return f"{clock}\t{' '.join(pair.hex() for pair in pairs)}\n\n"


def _each(triplets: bytes) -> Iterator[bytes]:
    return (triplets[k : k + 3] for k in range(0, len(triplets) - 2, 3))


def _says(triplet: bytes) -> bool:
    """Whether it is valid, and more than the two nulls with which CEA-608 passes the time."""
    is_line_21 = not triplet[0] & 2
    return bool(triplet[0] & 4) and not (is_line_21 and not (triplet[1] | triplet[2]) & 0x7F)


def of_frames(captions: Iterable[tuple[Fraction, bytes]], shown: Sequence[Fraction]) -> dict[int, bytes]:
    """Frame -> its triplets. Frame k is shown from ``shown[k]`` to ``shown[k + 1]``.

    Captions come in the order of their times. What is too much for a frame comes with the next; what is shown before
    the first frame, or after the last, is left out.
    """
    found: dict[int, bytes] = {}
    frame, waiting, last = 0, b"", len(shown) - 2
    for time, triplets in captions:
        if not shown[0] - LATE <= time < shown[-1]:
            continue
        now = max(bisect.bisect_right(shown, time + LATE) - 1, 0)
        while waiting and frame < now:
            found[frame], waiting, frame = waiting[: 3 * MOST], waiting[3 * MOST :], frame + 1
        frame, waiting = max(frame, now), waiting + triplets
    while waiting and frame <= last:
        found[frame], waiting, frame = waiting[: 3 * MOST], waiting[3 * MOST :], frame + 1
    return found
