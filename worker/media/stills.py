"""Videos that are no one stream: pictures in a ZIP archive, and animated WebP, which PyAV cannot decode.

Of such a file the first picture says what all look like. An archive is a stranger's: it is read by Python alone, never
unpacked under the names that are in it, and not beyond the sizes that it tells of.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Self

from service.jobs.stills import SIGNATURE, in_order, kind
from worker.channel import nothing
from worker.media import heads
from worker.media.errors import damaged, exceeded, unreadable
from worker.media.heads import Head

ZIP, WEBP = "zip", "webp_anim"  # names of containers, as those of FFmpeg's demuxers
MOST_PICTURES = 100_000
MOST_BYTES = 1 << 30  # of one picture
MOST_TIMES_LARGER = 200  # than the archive: no picture is packed so small, but a bomb is
ALPHA = 0x10  # in the flags of WebP
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Stills:
    """The pictures of a file, in order; picture k is shown from ``times[k]`` to ``times[k + 1]``, in seconds."""

    container: str  #: ZIP or WEBP
    codec: str  #: FFmpeg's decoder of each
    first: bytes  #: the first picture as a file of its own
    times: list[Fraction]
    size: tuple[int, int] | None = None  #: in pixels, where the first picture does not tell
    alpha: bool = False  #: whether any may be transparent, where the first picture does not tell
    breaks_off: bool = False  #: the file ends in the midst of something
    depth: int = 0  #: bits a sample of the deepest picture, where that is known
    turned: int = 0  #: how many are to be turned otherwise than the first

    @property
    def demuxer(self) -> str:
        """FFmpeg's name of the format of one picture."""
        return "jpeg_pipe" if self.codec == "mjpeg" else f"{self.codec.removesuffix('_anim')}_pipe"

    @classmethod
    def find(cls, path: Path, rate: Fraction) -> Self | None:
        """The pictures in the file, ``rate`` a second in an archive; None where it is another kind of file.

        Raises:
            MediaError: it is an archive without pictures, or one that is not to be trusted, or is damaged.
        """
        with path.open("rb") as file:
            head = file.read(30)
            if head.startswith(SIGNATURE):
                return cls._zip(path, rate)
            if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:  # it is animated
                return cls._webp(file)
        return None

    @classmethod
    def _zip(cls, path: Path, rate: Fraction) -> Self:
        with _opened(path) as archive:
            names = _names(archive)
            codec = kind(names[0]) or ""
            with suppress(RuntimeError):
                times = [k / rate for k in range(len(names) + 1)]
                told = _heads(archive, names, codec)
                known = [head for head in told if head]
                first = told[0]
                # Where the first is gray, or has fewer colours, and others have more, one of these says what all have.
                richest = told.index(max(known, key=lambda head: head.rank)) if first else 0
                with archive.open(names[richest]) as file:
                    return cls(
                        ZIP,
                        codec,
                        file.read(MOST_BYTES),
                        times,
                        size=(first.width, first.height) if first and richest else None,
                        alpha=any(head.alpha for head in known),
                        depth=max((head.depth for head in known), default=0),
                        turned=sum(head.turn != first.turn for head in known) if first else 0,
                    )
        raise unreadable("its pictures are encrypted")

    @classmethod
    def _webp(cls, file: IO[bytes]) -> Self:
        """Animated WebP: https://developers.google.com/speed/webp/docs/riff_container."""
        there = os.fstat(file.fileno()).st_size
        file.seek(4)
        breaks_off = there < 8 + int.from_bytes(file.read(8)[:4], "little")
        size, alpha, ticks, first = (0, 0), False, [0], b""
        while len(head := file.read(8)) == 8:
            name, length = head[:4], int.from_bytes(head[4:], "little")
            following = file.tell() + length + length % 2
            if name == b"VP8X":
                flags = file.read(10)
                alpha = bool(flags[0] & ALPHA)
                size = (1 + int.from_bytes(flags[4:7], "little"), 1 + int.from_bytes(flags[7:10], "little"))
            elif name == b"ANMF" and length >= 16 and following <= there:
                frame = file.read(16)
                ticks.append(ticks[-1] + (int.from_bytes(frame[12:15], "little") or 100))
                first = first or _still(frame, file.read(min(length - 16, MOST_BYTES)))
            file.seek(following)
        if not first:
            raise damaged("it holds no frames")
        times = [Fraction(tick, 1000) for tick in ticks]
        return cls(WEBP, WEBP, first, times, size, alpha, breaks_off)


@contextmanager
def unpacked(
    path: Path, folder: Path, numbers: Collection[int], check: Callable[[], None] = nothing
) -> Iterator[Path]:
    """A folder in ``folder`` with some pictures of an archive, named by their numbers in it."""
    with TemporaryDirectory(dir=folder) as place, _opened(path) as archive:
        names = _names(archive)
        for number in numbers:
            check()
            try:
                data = archive.read(names[number])
            except (zipfile.BadZipFile, zlib.error, EOFError):
                data = b"damaged"  # which no decoder takes
            Path(place, f"{number:08}").write_bytes(data)
        yield Path(place)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise damaged(f"the archive cannot be read ({error})") from None


def _names(archive: zipfile.ZipFile) -> list[str]:
    """The names of the pictures, in order; MediaError where the archive is no sequence of pictures, or a bomb."""
    pictures = {entry.filename: entry for entry in archive.infolist() if kind(entry.filename)}
    if len(pictures) < 2:
        raise unreadable(
            "it is an archive with fewer than two pictures, between which new ones could be made"
        )
    if len(pictures) > MOST_PICTURES:
        raise exceeded(f"{len(pictures)} pictures", f"{MOST_PICTURES} pictures")
    if len({kind(name) for name in pictures}) > 1:
        raise unreadable("the pictures in the archive are of several kinds")
    packed = sum(entry.compress_size for entry in pictures.values())
    whole = sum(entry.file_size for entry in pictures.values())
    largest = max(entry.file_size for entry in pictures.values())
    if largest > MOST_BYTES or whole > MOST_TIMES_LARGER * max(packed, 1 << 16):
        raise exceeded(
            f"pictures of {largest} bytes in an archive of {packed}", f"{MOST_BYTES} bytes a picture"
        )
    if any(entry.compress_type not in PACKINGS for entry in pictures.values()):
        raise unreadable(
            "the archive is packed in a way that is not taken: pack it by deflate, or not at all"
        )
    return in_order(pictures)


def _heads(archive: zipfile.ZipFile, names: Iterable[str], codec: str) -> list[Head | None]:
    """What each picture tells of itself; None of what is not understood."""
    found: list[Head | None] = []
    for name in names:
        found.append(None)
        with suppress(zipfile.BadZipFile, zlib.error, EOFError), archive.open(name) as file:
            found[-1] = heads.read(file, codec)
    return found


def _still(frame: bytes, chunks: bytes) -> bytes:
    """A frame of an animated WebP as a picture of its own."""
    flags = bytes([ALPHA if chunks[:4] == b"ALPH" else 0, 0, 0, 0])
    body = b"WEBPVP8X" + struct.pack("<I", 10) + flags + frame[6:12] + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body
