"""Uploads that arrive before the request that makes a job of them: whose each is, how large, and what has arrived.

Redis keeps a record of each for a day. Its files go with the janitor's next look after that. Either the client sends
one file to the store itself, ``incoming/<id>``; or it sends parts to the API, ``incoming/<id>/…``, and the record lists
them in order.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from redis import Redis
from redis.client import Pipeline

from service.jobs.names import created_at, is_job_id
from service.jobs.problems import Problem
from service.store import Store

INCOMING_SECONDS = 24 * 3600
BLOCK_BYTES = 2**20


def incoming_key(upload_id: str) -> str:
    """The key of the file in the store, and the beginning of its parts' keys."""
    return f"incoming/{upload_id}"


class Part(BaseModel):
    """A piece of an upload in the store."""

    model_config = ConfigDict(extra="allow", frozen=True)

    key: str
    size_bytes: int
    sha256: str


class Upload(BaseModel):
    """An upload on record, as far as it has arrived. `parts` is None where the client sends it to the store itself."""

    model_config = ConfigDict(extra="allow", frozen=True)

    owner: str
    size_bytes: int
    filename: str | None = None
    parts: tuple[Part, ...] | None = None

    @property
    def offset(self) -> int:
        """Bytes of it that have arrived in parts."""
        return sum(part.size_bytes for part in self.parts or ())


class Incoming:
    """The uploads on record in `redis`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, upload_id: str, upload: Upload) -> None:
        """Record an upload that is to come; its id has the form of a job's."""
        self._redis.set(_record(upload_id), upload.model_dump_json(), ex=INCOMING_SECONDS)

    def get(self, upload_id: str, owner: str) -> Upload:
        """The upload as it stands; Problem 404 where `owner` has none of this id."""
        return _readable(
            upload_id, owner, self._redis.get(_record(upload_id)) if is_job_id(upload_id) else None
        )

    def append(self, upload_id: str, owner: str, offset: int, part: Part) -> int | None:
        """Record `part` as what follows the first `offset` bytes; returns the bytes that there are now.

        None: the upload has another number of bytes by now, since another request brought some, and stays as it is.
        Raises as `get` does.
        """
        name = _record(upload_id)

        def change(transaction: Pipeline) -> int | None:
            upload = _readable(upload_id, owner, transaction.get(name))
            transaction.multi()
            if upload.offset != offset:
                return None
            more = upload.model_copy(update={"parts": (*(upload.parts or ()), part)})
            transaction.set(name, more.model_dump_json(), keepttl=True)
            return more.offset

        transaction: Any = (
            self._redis.transaction
        )  # its annotations know of no function that returns something
        now: int | None = transaction(change, name, value_from_callable=True)
        return now

    def delete(self, upload_id: str) -> None:
        """Forget an upload; its files are the caller's to remove."""
        self._redis.delete(_record(upload_id))


def expires_at(upload_id: str) -> float:
    """When an upload is forgotten, in seconds since the epoch."""
    return created_at(upload_id) + INCOMING_SECONDS


def is_expired(upload_id: str) -> bool:
    """Whether no job may be made of an upload any more."""
    return time.time() > expires_at(upload_id)


def join(store: Store, parts: Sequence[Part], path: Path) -> str:
    """Write `parts` one after another to `path`, and return the SHA-256 of the whole in hex.

    Raises:
        StoreDamaged: a part is missing, or not what was put there.
    """
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as whole:
        for part in parts:
            fetched = store.fetch(part.key, size_bytes=part.size_bytes, sha256=part.sha256)
            with fetched as piece, piece.open("rb", buffering=0) as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                    whole.write(block)
    return digest.hexdigest()


def _record(upload_id: str) -> str:
    return f"dain:incoming:{upload_id}"


def _readable(upload_id: str, owner: str, raw: Any) -> Upload:
    upload = Upload.model_validate_json(raw) if raw else None
    if upload is None or upload.owner != owner:
        raise Problem(
            "upload-not-found",
            f"There is no upload {upload_id[:100]!r}; one is kept for a day. POST /uploads begins another.",
        )
    return upload
