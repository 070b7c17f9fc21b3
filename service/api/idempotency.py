"""Idempotency-Key: a request that is sent again makes no second job.

While the first request with a key is being read, a lease in Redis holds the key. The process renews the lease, so the
key is free soon after the process was killed. The step that records the job binds the key to the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import anyio
from fastapi.concurrency import run_in_threadpool
from redis import Redis
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from service.jobs.machine import Entry
from service.jobs.problems import Problem
from service.jobs.records import DEFAULT_OWNER

KEY_LIFETIME_SECONDS = 24 * 3600
LEASE_SECONDS = 30.0
RENEWAL_SECONDS = 10.0

_QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_BARE = re.compile(r"[A-Za-z0-9._~:+/=-]{1,255}")


@dataclass(frozen=True)
class Binding:
    """What a key stands for: a job, and the fingerprint of the request that made it."""

    job_id: str
    fingerprint: str


class NoKey:
    """What a request holds that came without a key."""

    def binding(self) -> Binding | None:
        """What an earlier request with this key made; None where there was none."""
        return None

    def entry(self, binding: Binding) -> Entry | None:
        """What is to be set in Redis, so that the key stands for the job of `binding`."""
        return None

    def check(self) -> None:
        """Raises Problem 409 where the lease was lost, as after a long stop of this process."""


class Key(NoKey):
    """An idempotency key that the present request holds."""

    def __init__(self, redis: Redis, name: str, lease: Lock) -> None:
        self._redis = redis
        self._name = name
        self._lease = lease

    def binding(self) -> Binding | None:
        value = self._redis.get(self._name)
        if value is None:
            return None
        stored = json.loads(value)  # a later version may have written more
        return Binding(stored["job_id"], stored["fingerprint"])

    def entry(self, binding: Binding) -> Entry:
        return Entry(self._name, json.dumps(asdict(binding)), KEY_LIFETIME_SECONDS)

    def check(self) -> None:
        if not self._lease.owned():
            raise in_use()


@contextlib.asynccontextmanager
async def hold(redis: Redis, header: str | None, owner: str) -> AsyncIterator[NoKey]:
    """Holds the key of `owner` that `header` names; Problem 409 while another request holds it, 400 if it is malformed.

    Redis is not asked where there is no header.
    """
    if header is None:
        yield NoKey()
        return
    text = parse(header)
    # Every key was the default owner's before there were others.
    scope = "" if owner == DEFAULT_OWNER else f"{owner}:"
    name = f"dain:idempotency:{scope}{hashlib.sha256(text.encode()).hexdigest()}"
    # Acquired in one thread, renewed and released in others.
    lease = redis.lock(f"{name}:lease", timeout=LEASE_SECONDS, blocking=False, thread_local=False)
    if not await run_in_threadpool(lease.acquire):
        raise in_use()
    renewal = asyncio.create_task(_renew(lease))
    try:
        yield Key(redis, name, lease)
    finally:
        renewal.cancel()
        with anyio.CancelScope(shield=True), contextlib.suppress(LockError, RedisError):  # else it expires
            await run_in_threadpool(lease.release)


def parse(header: str) -> str:
    """The key in `header`: quoted as the draft has it, or bare as many clients send it. Raises Problem 400 else."""
    if quoted := _QUOTED.fullmatch(header):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if _BARE.fullmatch(header):
        return header
    raise Problem(
        "invalid-idempotency-key",
        'The Idempotency-Key must be a quoted string of 1 to 255 printable ASCII characters, such as "3f1c9a".',
    )


def in_use() -> Problem:
    return Problem(
        "idempotency-key-in-use",
        "The service still works on an earlier request with this Idempotency-Key; send this one again in 5 seconds.",
        headers={"Retry-After": "5"},
    )


async def _renew(lease: Lock) -> None:
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        with contextlib.suppress(LockError, RedisError):  # `Key.check` decides; Redis may be back before then
            await run_in_threadpool(lease.reacquire)
