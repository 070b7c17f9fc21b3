"""Resumable uploads by tus 1.0 (https://tus.io): what has arrived survives a broken connection and the API's death.

A body is cut into parts. Each is durable in the store, and on record, before the next one is begun; the offset is where
the last part ends. So any process of the API may go on with an upload, whatever kind of store there is. `POST
/jobs?upload=ID` joins the parts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from service.api import uploads
from service.api.options import MASK_NEEDS_A_FORM
from service.jobs.incoming import Incoming, Part, Upload, expires_at, incoming_key
from service.jobs.problems import Problem
from service.store import Store

VERSION = "1.0.0"
EXTENSIONS = "creation,checksum,expiration,termination"
ALGORITHMS = ("sha256", "sha1", "md5")  # of checksums; tus wants SHA-1
BODY = "application/offset+octet-stream"
PART_BYTES = 16 * 2**20  # of a body without a checksum: as much is lost when the API is killed
MOST_PARTS = 2000


def headers(**more: object) -> dict[str, str]:
    """Headers of an answer: `Tus-Resumable`, and those in `more`, with `_` for `-`."""
    named = {name.replace("_", "-"): str(value) for name, value in more.items()}
    return {"Tus-Resumable": VERSION, "Cache-Control": "no-store", **named}


def options(max_bytes: int) -> dict[str, str]:
    """What this server can, as headers."""
    return headers(
        Tus_Version=VERSION,
        Tus_Extension=EXTENSIONS,
        Tus_Max_Size=max_bytes,
        Tus_Checksum_Algorithm=",".join(ALGORITHMS),
    )


def check_version(request: Request) -> None:
    """Raises Problem 412 where `request` is not of the version of tus that there is here."""
    if request.headers.get("tus-resumable") != VERSION:
        raise Problem(
            "unsupported-tus-version",
            f"Send the header `Tus-Resumable: {VERSION}` with the request. It says which version of tus, the protocol "
            "of resumable uploads, the caller means, and the service has no other.",
            headers={"Tus-Version": VERSION},
        )


def announced(request: Request, owner: str, max_bytes: int) -> Upload:
    """The upload that the headers of `request` announce; Problem 400, 413 or 422 where it cannot be taken."""
    length = _number(request, "upload-length")
    if length == 0:
        raise uploads.invalid_upload("The file is empty (Upload-Length is 0); send one that holds a video.")
    if length > max_bytes:
        raise uploads.too_large(max_bytes)
    said = _metadata(request.headers.get("upload-metadata", ""))
    if uploads.MASK in said:
        raise Problem("invalid-option", f"{MASK_NEEDS_A_FORM[0].upper()}{MASK_NEEDS_A_FORM[1:]}.")
    filename = said.get("filename")
    return Upload(
        owner=owner, size_bytes=length, filename=filename and uploads.clean_filename(filename), parts=()
    )


def expiry(upload_id: str) -> dict[str, str]:
    """The header that says when the upload is forgotten."""
    return {"Upload-Expires": formatdate(expires_at(upload_id), usegmt=True)}


class Receiver:
    """Takes the body of one PATCH to the upload `upload_id` of `owner`."""

    def __init__(
        self, upload_id: str, owner: str, incoming: Incoming, store: Store, check_space: Callable[[], None]
    ) -> None:
        self._id = upload_id
        self._owner = owner
        self._incoming = incoming
        self._store = store
        self._check_space = check_space

    async def receive(self, request: Request) -> int:
        """Appends the body of `request`; returns the bytes of the upload that are here then.

        What came before the connection broke is kept, unless there is a checksum of the whole body. Raises Problem
        (400, 404, 408, 409, 413, 415, 460, 507).
        """
        if request.headers.get("content-type") != BODY:
            raise Problem("unsupported-media-type", f"Send the bytes of the upload as {BODY}.")
        checksum = _checksum(request)
        upload = await run_in_threadpool(self._incoming.get, self._id, self._owner)
        offset = _number(request, "upload-offset")
        _check(upload, offset, uploads.content_length(request) or 0)
        body = uploads.chunks(request, upload.size_bytes - offset, too_long(upload))
        async with contextmanager_in_threadpool(self._store.scratch()) as folder:
            whole = False
            while not whole:
                piece = uploads.VideoFile(folder / "part", upload.size_bytes, self._check_space)
                try:
                    whole = await _fill(piece, body, upload.size_bytes + 1 if checksum else PART_BYTES)
                    if checksum:
                        await run_in_threadpool(_verify, piece.path, *checksum)
                except uploads.BrokenOff:
                    if not checksum:
                        await self._append(piece, offset)
                    raise
                finally:
                    piece.close()
                offset = await self._append(piece, offset)
        return offset

    async def _append(self, piece: uploads.VideoFile, offset: int) -> int:
        return await run_in_threadpool(self._put, piece, offset) if piece.size_bytes else offset

    def _put(self, piece: uploads.VideoFile, offset: int) -> int:
        """Makes the piece durable and records it as what follows the first `offset` bytes."""
        # The name is this attempt's own: another request may bring the same bytes at the same time.
        key = f"{incoming_key(self._id)}/{offset:016d}-{secrets.token_hex(4)}"
        part = Part(key=key, size_bytes=piece.size_bytes, sha256=piece.sha256())
        self._store.put(piece.path, key, sha256=part.sha256)
        try:
            now = self._incoming.append(self._id, self._owner, offset, part)
            if now is None:
                raise another_offset(self._incoming.get(self._id, self._owner).offset)
        except Problem:  # it was removed, or another request was faster
            self._store.delete(key)
            raise
        return now


async def _fill(piece: uploads.VideoFile, body: AsyncIterator[bytes], most_bytes: int) -> bool:
    """Writes what comes to `piece`, until that has about `most_bytes`; whether `body` has come to its end."""
    try:
        async for chunk in body:
            piece.write(chunk)
            if piece.is_due:
                await run_in_threadpool(piece.flush)
            if piece.size_bytes >= most_bytes:
                return False
        return True
    finally:
        await run_in_threadpool(piece.flush)


def _check(upload: Upload, offset: int, length: int) -> None:
    """Raises Problem 400, 409 or 413 where a body of `length` bytes does not go at `offset` of `upload`."""
    if upload.parts is None:
        raise uploads.invalid_upload(
            "The client sends this upload to the store itself, by the URL that it was given."
        )
    if offset != upload.offset:
        raise another_offset(upload.offset)
    if offset + length > upload.size_bytes:
        raise too_long(upload)
    if len(upload.parts) >= MOST_PARTS:
        raise uploads.invalid_upload(
            f"The upload came in {MOST_PARTS} pieces, which is the most; begin another, and send larger ones."
        )


def too_long(upload: Upload) -> Problem:
    return Problem(
        "upload-too-large",
        f"The upload has {upload.size_bytes} bytes (Upload-Length), and these are more; begin a new one.",
    )


def another_offset(offset: int) -> Problem:
    return Problem(
        "another-offset",
        f"The service has {offset} bytes of the upload; go on from there (Upload-Offset).",
        headers=headers(Upload_Offset=offset),
    )


def _verify(path: Path, algorithm: str, expected: bytes) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).digest()
    if found != expected:
        raise Problem(
            "checksum-mismatch", "The bytes are others than those of Upload-Checksum; send them again."
        )


def _checksum(request: Request) -> tuple[str, bytes] | None:
    """The algorithm and the digest of the header Upload-Checksum; Problem 400 where it is malformed."""
    if (header := request.headers.get("upload-checksum")) is None:
        return None
    algorithm, _, digest = header.partition(" ")
    try:
        if algorithm in ALGORITHMS:
            return algorithm, base64.b64decode(digest, validate=True)
    except binascii.Error:
        pass
    raise uploads.invalid_upload(
        f"The header Upload-Checksum is {header!r:.100}; it must be one of {', '.join(ALGORITHMS)}, a space, and the "
        "digest in Base64."
    )


def _number(request: Request, name: str) -> int:
    header = request.headers.get(name, "")
    if not (header.isascii() and header.isdecimal() and len(header) < 20):
        raise uploads.invalid_upload(
            f"The header {name.title()} is {header!r:.100}; it must be a number of bytes."
        )
    return int(header)


def _metadata(header: str) -> dict[str, str]:
    """The values of an Upload-Metadata header, by their names; what is malformed is left out."""
    found: dict[str, str] = {}
    for pair in header.split(","):
        name, _, value = pair.strip().partition(" ")
        try:
            found[name] = uploads.decoded(base64.b64decode(value, validate=True))
        except binascii.Error:
            continue
    return found
