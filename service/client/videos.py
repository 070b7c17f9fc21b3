"""What may be given as a video: a path, bytes, an open file, or pieces of bytes."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

Video = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Iterable[bytes]
#: Is told how many bytes of how many have gone, or have come.
OnBytes = Callable[[int, int], None]

CHUNK_BYTES = 2**20
MEMORY_BYTES = 64 * 2**20  # of a stream that are kept in memory; what is longer goes into a temporary file


class Source:
    """A video that can be sent as often as it has to be: the `size` bytes of `file`.

    A file that cannot seek and an iterable are read to their end first.
    """

    def __init__(self, video: Video, filename: str | None) -> None:
        self._owned = True
        if isinstance(video, str | os.PathLike):
            self.file: IO[bytes] = Path(video).open("rb")  # noqa: SIM115
        elif isinstance(video, bytes | bytearray | memoryview):
            self.file = io.BytesIO(video)
        elif not hasattr(video, "read"):
            self.file = _spooled(video)
        elif (file := cast("IO[bytes]", video)).seekable():
            self.file, self._owned = file, False
        else:
            self.file = _spooled(iter(partial(file.read, CHUNK_BYTES), b""))
        self.size = self.file.seek(0, os.SEEK_END)
        own = video if isinstance(video, str | os.PathLike) else getattr(video, "name", None)
        self.name = filename or (os.path.basename(own) if isinstance(own, str | os.PathLike) else "video")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            self.file.close()

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, or what is left; OSError where the file has become shorter."""
        self.file.seek(offset)
        piece = self.file.read(size)
        if len(piece) < min(size, self.size - offset):
            raise OSError(f"{self.name} became shorter while it was sent")
        return piece[: self.size - offset]


def _spooled(pieces: Iterable[bytes]) -> IO[bytes]:
    """A file of these pieces."""
    file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115
    try:
        file.writelines(pieces)
    except BaseException:
        file.close()
        raise
    return file
