"""Sends a file in pieces, each of which arrives whole or not at all: tus 1.0 (docs/uploads.md)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import httpx

from .errors import ANOTHER_OFFSET, ClientError
from .retries import persist, raise_for_problem

PIECE_BYTES = 16 * 2**20  # that are sent again where the connection breaks
TUS = {"Tus-Resumable": "1.0.0"}


class ResumableUpload:
    """An upload at `url`; `http` leads to the service."""

    def __init__(self, http: httpx.Client, url: str, timeout: float) -> None:
        self._http = http
        self._url = url
        self._timeout = timeout  # for the answer to a piece, which the service writes to its disk first

    @classmethod
    def begin(cls, http: httpx.Client, size_bytes: int, timeout: float) -> ResumableUpload | None:
        """A new upload; None where the service knows none. Raises ClientError where it takes no such file."""

        def ask() -> httpx.Response:
            response = http.post("/uploads", headers={**TUS, "Upload-Length": str(size_bytes)})
            if response.status_code not in (404, 405):  # a service from before there were any
                raise_for_problem(response)
            return response

        response = persist(ask, http.base_url)
        return cls(http, response.headers["Location"], timeout) if response.is_success else None

    @property
    def id(self) -> str:
        return self._url.rpartition("/")[2]

    @contextmanager
    def sent(self, path: Path) -> Iterator[None]:
        """Sends the file at `path`; the service forgets the upload on the way out, instead of in a day."""
        try:
            size, offset = path.stat().st_size, 0
            with path.open("rb") as file:
                while offset < size:
                    # Patience with a failing connection begins anew with each piece.
                    offset = persist(partial(self._send_piece, file, offset), self._http.base_url)
            yield
        finally:
            with suppress(httpx.TransportError):
                self._http.delete(self._url, headers=TUS)

    def _send_piece(self, file: IO[bytes], offset: int) -> int:
        """Sends the piece that begins at `offset`; returns where the next one begins."""
        file.seek(offset)
        piece = file.read(PIECE_BYTES)
        headers = {
            **TUS,
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {base64.b64encode(hashlib.sha256(piece).digest()).decode()}",
        }
        response = self._http.patch(self._url, content=piece, headers=headers, timeout=self._timeout)
        try:
            raise_for_problem(response)
        except ClientError as error:
            if error.slug != ANOTHER_OFFSET:  # else the piece had arrived, and the answer was lost
                raise
        return int(response.headers["Upload-Offset"])
