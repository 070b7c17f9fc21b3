"""Uploads that a client sends to the store itself: who may use each, and how large it is to be.

Redis keeps a record of each for a day. Its file, ``incoming/<id>``, goes with the janitor's next look after that.
"""

from __future__ import annotations

import json

from redis import Redis

from service.jobs.machine import is_job_id
from service.jobs.problems import Problem

INCOMING_SECONDS = 24 * 3600


def incoming_key(upload_id: str) -> str:
    """The key of the file in the store."""
    return f"incoming/{upload_id}"


class Incoming:
    """The uploads on record in `redis`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, upload_id: str, owner: str, size_bytes: int) -> None:
        """Record that `owner` is to send an upload; its id has the form of a job's."""
        record = json.dumps({"owner": owner, "size_bytes": size_bytes})
        self._redis.set(_record(upload_id), record, ex=INCOMING_SECONDS)

    def size(self, upload_id: str, owner: str) -> int:
        """The bytes that the upload has to have; Problem 404 where `owner` has no such upload."""
        raw = self._redis.get(_record(upload_id)) if is_job_id(upload_id) else None
        record = json.loads(raw) if raw else {}
        if record.get("owner") != owner:
            raise Problem(
                "upload-not-found",
                f"There is no upload {upload_id[:100]!r}; one is kept for a day. POST /uploads begins another.",
            )
        return int(record["size_bytes"])


def _record(upload_id: str) -> str:
    return f"dain:incoming:{upload_id}"
