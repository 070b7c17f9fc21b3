"""Closed captions within pictures (CEA-608 and CEA-708): out of the source's packets, and into those of the result.

A picture carries some of the captions' bytes in triplets, as ATSC A/53 part 4 says. Each source frame's come to the
frame that the result shows in its place. The frames between carry none.
"""

from __future__ import annotations

import base64
import bisect
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

#: What triplets come after: ITU-T T.35's message in H.264, HEVC and AV1, and MPEG-2's user data.
T35 = b"\xb5\x00\x31GA94\x03"
USER_DATA = b"\x00\x00\x01\xb2GA94\x03"
SOURCES = {"av1", "h264", "hevc", "mpeg2video"}  # codecs that captions are taken out of
MOST = 31  # triplets of a picture
LATE = Fraction(1, 2000)  # seconds: containers that count in milliseconds move a frame by as much
_ENTRY = struct.Struct("=qH")

Captions = list[tuple[int, bytes]]  # time, in ticks, and triplets


def read(packet: bytes, codec: str) -> bytes:
    """The triplets that a packet carries, without those that say nothing."""
    mark = USER_DATA if codec == "mpeg2video" else T35
    found = b""
    for message in packet.split(mark)[1:]:
        if codec in ("h264", "hevc"):
            message = message[: 6 * MOST].replace(b"\0\0\3", b"\0\0")  # which keeps start codes out of it
        if len(message) > 2 and message[0] & 0x40:
            triplets = message[2 : 2 + 3 * (message[0] & 31)]
            found += b"".join(each for each in _each(triplets) if _says(each))
    return found


def _each(triplets: bytes) -> Iterator[bytes]:
    return (triplets[k : k + 3] for k in range(0, len(triplets) - 2, 3))


def _says(triplet: bytes) -> bool:
    """Whether it is valid, and more than the two nulls with which CEA-608 passes the time."""
    is_line_21 = not triplet[0] & 2
    return bool(triplet[0] & 4) and not (is_line_21 and not (triplet[1] | triplet[2]) & 0x7F)


def packed(captions: Captions) -> str:
    """Captions as the prober writes them."""
    entries = (_ENTRY.pack(time, len(triplets)) + triplets for time, triplets in captions)
    return base64.b64encode(zlib.compress(b"".join(entries))).decode()


def unpacked(text: str) -> Captions:
    """What `packed` was given."""
    data, place, found = zlib.decompress(base64.b64decode(text)), 0, []
    while place < len(data):
        time, length = _ENTRY.unpack_from(data, place)
        place += _ENTRY.size + length
        found.append((time, data[place - length : place]))
    return found


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


def written(packet: bytes, triplets: bytes, codec: str) -> bytes:
    """A packet of H.264 or HEVC, as MP4 holds it, that carries ``triplets`` before its first slice."""
    is_hevc = codec.startswith("hevc")
    message = T35 + bytes([0x40 | len(triplets) // 3, 0xFF]) + triplets + b"\xff"
    unit = bytes([4, len(message)]) + message + b"\x80"
    unit = (b"\x4e\x01" if is_hevc else b"\x06") + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", unit)
    place = 0
    while place < len(packet):
        head = packet[place + 4]
        if head >> 1 & 63 < 32 if is_hevc else 1 <= head & 31 <= 5:
            break
        place += 4 + int.from_bytes(packet[place : place + 4])
    return packet[:place] + len(unit).to_bytes(4) + unit + packet[place:]
