"""What the beginning of a picture tells of it, so that pictures that differ are told apart without decoding."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

HEAD = 1 << 14  # bytes of a picture that come before its pixels, with what matters here
PNG = b"\x89PNG\r\n\x1a\n"
PNG_COLORS, PNG_ALPHA = {2, 3, 6}, {4, 6}  # types of colour
BARE_MARKERS = {0x01, *range(0xD0, 0xD8)}  # of JPEG, which have no length
FRAMES = {
    0xC0,
    0xC1,
    0xC2,
    0xC3,
    0xC5,
    0xC6,
    0xC7,
    0xC9,
    0xCA,
    0xCB,
    0xCD,
    0xCE,
    0xCF,
}  # headers of frames of JPEG
BMP_WITH_ALPHA = 56  # bytes of a BMP's description that has room for a mask of alpha
EXIF = b"Exif\0\0"
ORIENTATION, BITS, SAMPLES, EXTRA = 274, 258, 277, 338  # tags of TIFF
WIDTH, HEIGHT, MEANING, PALETTE = 256, 257, 262, 3
PNM = re.compile(rb"P([56])\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+(\d+)\s")
DPX_GRAY, DPX_ALPHA = 6, {51, 52}  # what the samples of DPX are
UPRIGHT = 1
SIZES = {1: "B", 3: "H", 4: "I"}  # types of numbers in TIFF


@dataclass(frozen=True)
class Head:
    """What a picture tells of itself."""

    width: int
    height: int
    colored: bool = True
    chroma: int = 1  #: samples of light for each of colour
    depth: int = 8  #: bits a sample
    alpha: bool = False
    turn: int = UPRIGHT  #: EXIF's number for how it is to be turned

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Which of two pictures has what the other one has not."""
        return self.colored, -self.chroma, self.depth


def read(file: IO[bytes], codec: str) -> Head | None:
    """The head of a picture of one of FFmpeg's ``codec``; None where it is not understood."""
    reader = READERS.get(codec)
    try:
        return reader(file) if reader else None
    except (struct.error, IndexError, KeyError, ValueError):
        return None


def _png(file: IO[bytes]) -> Head | None:
    head = file.read(HEAD)
    if not head.startswith(PNG):
        return None
    width, height, depth, color = struct.unpack_from(">IIBB", head, 16)
    see_through = color in PNG_ALPHA or b"tRNS" in head.partition(b"IDAT")[0]
    depth = 16 if depth == 16 else 8
    return Head(width, height, color in PNG_COLORS, depth=depth, alpha=see_through)


def _jpeg(file: IO[bytes]) -> Head | None:
    if file.read(2) != b"\xff\xd8":
        return None
    turn = UPRIGHT
    while (marker := _marker(file)) is not None:
        if marker in BARE_MARKERS:
            continue
        length = struct.unpack(">H", file.read(2))[0] - 2
        data = file.read(length)
        if marker == 0xE1 and data.startswith(EXIF):
            turn = _numbers(data[len(EXIF) :]).get(ORIENTATION, [UPRIGHT])[0]
        if marker in FRAMES:
            depth, height, width, parts = struct.unpack_from(">BHHB", data)
            light, *colors = ((factors >> 4) * (factors & 15) for factors in data[7 : 7 + 3 * parts : 3])
            chroma = light // max(*colors, 1) if colors else 1
            return Head(width, height, parts > 1, chroma, depth, turn=turn)
    return None


def _marker(file: IO[bytes]) -> int | None:
    byte = file.read(1)
    while byte == b"\xff":
        byte = file.read(1)
        if byte and byte != b"\xff":
            return byte[0]
    return None


def _webp(file: IO[bytes]) -> Head | None:
    head = file.read(30)
    kind, data = head[12:16], head[20:]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[k : k + 3], "little") for k in (4, 7))
        return Head(width, height, chroma=4, alpha=bool(data[0] & 0x10))
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return Head(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), alpha=bool(bits >> 28 & 1))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 6)
        return Head(width & 0x3FFF, height & 0x3FFF, chroma=4)
    return None


def _qoi(file: IO[bytes]) -> Head | None:
    mark, width, height, channels = struct.unpack(">4sIIB", file.read(13))
    return Head(width, height, alpha=channels == 4) if mark == b"qoif" else None


def _bmp(file: IO[bytes]) -> Head | None:
    head = file.read(70)
    mark, length, width, height, _, bits = struct.unpack_from("<2s12xIiiHH", head)
    see_through = bits == 32 and length >= BMP_WITH_ALPHA and any(head[66:])
    return Head(width, abs(height), alpha=see_through) if mark == b"BM" else None


def _tiff(file: IO[bytes]) -> Head | None:
    said = _numbers(file.read())  # what describes the picture comes last, as a rule
    if not said:
        return None
    samples, extra = said.get(SAMPLES, [1])[0], len(said.get(EXTRA, []))
    colored = samples - extra >= 3 or said.get(MEANING) == [PALETTE]
    depth = max(said.get(BITS, [1]))
    width, height, turn = said[WIDTH][0], said[HEIGHT][0], said.get(ORIENTATION, [UPRIGHT])[0]
    return Head(width, height, colored, 1, max(depth, 8), extra > 0, turn)


def _pnm(file: IO[bytes]) -> Head | None:
    if not (match := PNM.match(file.read(HEAD))):
        return None
    kind, width, height, most = map(int, match.groups())
    return Head(width, height, kind == 6, depth=16 if most > 255 else 8)


def _dpx(file: IO[bytes]) -> Head | None:
    head = file.read(HEAD)
    order = {b"SDPX": ">", b"XPDS": "<"}.get(head[:4])
    if not order:
        return None
    width, height = struct.unpack_from(f"{order}II", head, 772)
    return Head(width, height, head[800] != DPX_GRAY, depth=head[803], alpha=head[800] in DPX_ALPHA)


def _exr(file: IO[bytes]) -> Head | None:
    head, place, said = file.read(HEAD), 8, {}
    if not head.startswith(b"v/1\x01"):
        return None
    while head[place]:
        name, kind, _ = head[place:].split(b"\0", 2)
        place += len(name) + len(kind) + 2
        (length,) = struct.unpack_from("<I", head, place)
        place += 4 + length
        said[name] = head[place - length : place]
    left, top, right, bottom = struct.unpack("<4i", said[b"displayWindow"])
    channels, names = said[b"channels"], set()
    while channels[0]:
        name, _, rest = channels.partition(b"\0")
        names.add(name)
        channels = rest[16:]
    colored = not names.isdisjoint((b"R", b"G", b"B"))
    return Head(right - left + 1, bottom - top + 1, colored, alpha=b"A" in names)


def _numbers(data: bytes) -> dict[int, list[int]]:
    """The whole numbers of the first directory of a TIFF, by their tags; none where it lies beyond the data."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if not order:
        return {}
    place = struct.unpack_from(f"{order}I", data, 4)[0]
    found = {}
    for k in range(struct.unpack_from(f"{order}H", data, place)[0]):
        entry = place + 2 + 12 * k
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, entry)
        letters = f"{order}{min(count, 8)}{SIZES.get(kind, 'x')}"
        start = entry + 8
        if struct.calcsize(f"{order}{SIZES.get(kind, 'x')}") * count > 4:
            start = struct.unpack_from(f"{order}I", data, start)[0]
        if kind in SIZES and count:
            found[tag] = list(struct.unpack_from(letters, data, start))
    return found


READERS: dict[str, Callable[[IO[bytes]], Head | None]] = {
    "bmp": _bmp,
    "dpx": _dpx,
    "exr": _exr,
    "mjpeg": _jpeg,
    "pgm": _pnm,
    "png": _png,
    "ppm": _pnm,
    "qoi": _qoi,
    "tiff": _tiff,
    "webp": _webp,
}
