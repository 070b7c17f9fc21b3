"""Messages within pictures (ITU-T T.35): out of the source's packets, and into those of the result.

They carry closed captions (see `worker.media.captions`), or describe a picture: its light, scene by scene (HDR10+, HDR
Vivid), or the part of it that matters (AFD). What describes a source frame describes the new frames after it, too.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction

CAPTIONS = b"\xb5\x00\x31GA94\x03"
#: How messages begin, and FFmpeg's names of what they carry.
KINDS = {
    CAPTIONS: "A53_CC",
    b"\xb5\x00\x31DTG1": "AFD",
    b"\xb5\x00\x3c\x00\x01\x04": "DYNAMIC_HDR_PLUS",
    b"\x26\x00\x04\x00\x05": "DYNAMIC_HDR_VIVID",
}
ATSC = b"\xb5\x00\x31"  # what MPEG-2's user data have no need of
USER_DATA = b"\x00\x00\x01\xb2"
SOURCES = {"av1", "h264", "hevc", "mpeg2video"}  # codecs that messages are taken out of
RESULTS = {"h264", "hevc", "av1", "h264_nvenc", "hevc_nvenc", "av1_nvenc"}  # codecs that they are put into
HEAD = 1 << 16  # bytes of a packet that have all its messages: they come before the first slice
LONGEST = 1 << 12  # bytes of a message
LATE = Fraction(1, 2000)  # seconds: containers that count in milliseconds move a frame by as much

# In H.264 and HEVC a message has its type (4) and its length before it.
_SEI = re.compile(rb"\x04(\xff*)([\0-\xfe])(?=" + b"|".join(map(re.escape, KINDS)) + rb")", re.DOTALL)
_METADATA, _FRAMES = 5, (3, 6)  # types of AV1's units: metadata; the header of a frame, a frame
_T35 = 4  # types of metadata in AV1
_ENTRY = struct.Struct("=qH")

Dated = list[tuple[int, bytes]]  # times, in ticks, and what there is then


def in_mpeg2(mark: bytes) -> bytes:
    """How user data of MPEG-2 begin that have what messages with ``mark`` have."""
    return USER_DATA + mark.removeprefix(ATSC)


def kind(message: bytes) -> str:
    """FFmpeg's name of what a message carries; empty where it is not known here."""
    return next((name for mark, name in KINDS.items() if message.startswith(mark)), "")


def read(packet: bytes, codec: str) -> list[bytes]:
    """The messages of known kinds in a packet of one of `SOURCES`."""
    if codec == "av1":
        return [message for message in _of_units(packet) if kind(message)]
    head = packet[:HEAD]
    if codec == "mpeg2video":
        data = (ATSC + each[:LONGEST].partition(b"\x00\x00\x01")[0] for each in head.split(USER_DATA)[1:])
        return [message for message in data if kind(message)]
    found = []
    for match in _SEI.finditer(head):
        length = 255 * len(match[1]) + match[2][0]
        escaped = head[match.end() : match.end() + 2 * length]
        message = escaped.replace(b"\0\0\3", b"\0\0")[:length]  # which keeps start codes out of it
        if len(message) == length <= LONGEST:
            found.append(message)
    return found


def _units(packet: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The units of a packet of AV1: type, where it begins, where its contents begin, and where they end."""
    place = 0
    while place < len(packet):
        begin, head = place, packet[place]
        place += 2 if head & 4 else 1
        length = len(packet) - place
        if head & 2:
            length, place = _number(packet, place)
        yield head >> 3 & 15, begin, place, place + length
        place += length


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    number = 0
    for k, byte in enumerate(data[place : place + 8]):
        number |= (byte & 127) << 7 * k
        if byte < 128:
            return number, place + k + 1
    return len(data), len(data)  # which is no unit


def _of_units(packet: bytes) -> Iterator[bytes]:
    for unit, _, begin, end in _units(packet):
        if unit == _METADATA and packet[begin : begin + 1] == bytes([_T35]):
            yield packet[begin + 1 : end].rstrip(b"\0")[:-1]  # without the bit that ends it


def written(packet: bytes, messages: Sequence[bytes], codec: str) -> bytes:
    """A packet of one of `RESULTS`, as MP4 holds it, that carries ``messages`` as well."""
    if codec.startswith("av1"):
        shown = [begin for unit, begin, _, _ in _units(packet) if unit in _FRAMES]
        place = shown[-1] if shown else 0  # the last frame is shown, and those before it are not
        units = (bytes([_T35]) + message + b"\x80" for message in messages)
        made = b"".join(bytes([_METADATA << 3 | 2]) + _as_number(len(unit)) + unit for unit in units)
        return packet[:place] + made + packet[place:]
    is_hevc, place = codec.startswith("hevc"), 0
    while place < len(packet):
        head = packet[place + 4]
        if head >> 1 & 63 < 32 if is_hevc else 1 <= head & 31 <= 5:  # the first slice
            break
        place += 4 + int.from_bytes(packet[place : place + 4])
    made = b"".join(_sei(message, is_hevc) for message in messages)
    return packet[:place] + made + packet[place:]


def _sei(message: bytes, is_hevc: bool) -> bytes:
    full, rest = divmod(len(message), 255)
    unit = b"\x04" + b"\xff" * full + bytes([rest]) + message + b"\x80"
    unit = (b"\x4e\x01" if is_hevc else b"\x06") + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", unit)
    return len(unit).to_bytes(4) + unit


def _as_number(number: int) -> bytes:
    return bytes([number & 127 | 128]) + _as_number(number >> 7) if number > 127 else bytes([number])


def packed(dated: Dated) -> str:
    """What is dated, as the prober writes it."""
    entries = (_ENTRY.pack(time, len(data)) + data for time, data in dated)
    return base64.b64encode(zlib.compress(b"".join(entries))).decode()


def unpacked(text: str) -> Dated:
    """What `packed` was given."""
    data, place, found = zlib.decompress(base64.b64decode(text)), 0, []
    while place < len(data):
        time, length = _ENTRY.unpack_from(data, place)
        place += _ENTRY.size + length
        found.append((time, data[place - length : place]))
    return found


def together(messages: Iterable[bytes]) -> bytes:
    """The messages of a picture as one piece of data, for `packed`; `apart` gives them again."""
    return b"".join(len(message).to_bytes(2) + message for message in messages)


def apart(data: bytes) -> list[bytes]:
    """The messages that `together` was given."""
    found, place = [], 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 2])
        found.append(data[place + 2 : place + 2 + length])
        place += 2 + length
    return found


def of_frames(
    changes: Iterable[tuple[Fraction, bytes]], shown: Sequence[Fraction], kinds: Collection[str]
) -> dict[int, list[bytes]]:
    """Frame -> the messages of ``kinds`` that describe it. Frame k is shown from ``shown[k]`` on.

    ``changes`` are what `together` made, in the order of their times: each describes all frames up to the next.
    """
    found: dict[int, list[bytes]] = {}
    now: list[bytes] = []
    rest = iter(changes)
    following = next(rest, None)
    for frame, time in enumerate(shown[:-1]):
        while following and following[0] <= time + LATE:
            now = [message for message in apart(following[1]) if kind(message) in kinds]
            following = next(rest, None)
        if now:
            found[frame] = now
    return found
