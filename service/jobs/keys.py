"""API keys: who a caller is, what the caller may do, and how much of it.

A token, such as ``dain_0123456789ab_…``, names its key and proves it. The record of a key holds the token's SHA-256
alone, so whoever reads the records learns no token. A slow hash, as for passwords, would add nothing: a token has 256
random bits, so nobody finds it by trying.

Keys are few, and each store hands out all of them at once. A key that is revoked or has expired stays on record: a
service that once had keys never counts as one that has none.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from service.errors import DainError
from service.jobs.workers import text
from service.settings import Settings

REDIS_SECONDS = 3.0
OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TOKEN = re.compile(r"dain_([0-9a-f]{12})_[0-9a-f]{64}")


class Scope(StrEnum):
    """What a key allows: `submit` and cancel jobs, `read` them and their results, see the service as its `admin`."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


class Quota(BaseModel):
    """How much of the service an owner may take. None is as much as there is."""

    model_config = ConfigDict(frozen=True, extra="allow")

    jobs: int | None = Field(default=None, description="jobs that are queued or running")
    bytes: int | None = Field(default=None, description="bytes of the uploads accepted since midnight, UTC")
    work: int | None = Field(
        default=None, description="megapixels of new frames that its jobs have before them"
    )


class Key(BaseModel):
    """A key on record. Its jobs belong to its `owner`, who may have several keys.

    What a later version adds to a record is kept. `sha256` is that of the token. `rate` is in requests a minute.
    `weight` is the owner's share of the workers, against that of other owners.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    owner: str
    sha256: str = Field(repr=False)
    scopes: frozenset[str]
    quota: Quota = Quota()
    rate: int | None = None
    webhook_url: str | None = None  #: of the jobs that name none
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    @classmethod
    def lost(cls, key_id: str) -> Key:
        """What takes the place of a record that cannot be read: a revoked key, which no token proves."""
        now = time.time()
        return cls(id=key_id, owner="unknown", sha256="", scopes=frozenset(), created_at=now, revoked_at=now)

    @classmethod
    def new(cls, owner: str, scopes: Collection[str], **fields: Any) -> tuple[Key, str]:
        """A new key, and its token, which nothing else will ever tell."""
        key_id = secrets.token_hex(6)
        token = f"dain_{key_id}_{secrets.token_hex(32)}"
        key = cls(
            id=key_id,
            owner=owner,
            sha256=_hash(token),
            scopes=frozenset(scopes),
            created_at=time.time(),
            **fields,
        )
        return key, token

    def has(self, token: str) -> bool:
        """Whether `token` is this key's; takes as long whatever it is."""
        return hmac.compare_digest(_hash(token), self.sha256)

    @property
    def over(self) -> str | None:
        """Why the key is no longer valid: `revoked` or `expired`; None while it is."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= time.time() else None


def id_in(token: str) -> str | None:
    """The id of the key that `token` is of; None where it has not the form of a token."""
    match = _TOKEN.fullmatch(token)
    return match and match[1]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _parse(records: Mapping[str, Any]) -> dict[str, Key]:
    """The keys of these records by their ids. To pass over a damaged one could leave none, and let everybody in."""
    return {key_id: _parse_record(key_id, record) for key_id, record in records.items()}


def _parse_record(key_id: str, record: Any) -> Key:
    """The key of `record`: a text of JSON, or what is in such a text."""
    try:
        return Key.model_validate(json.loads(record) if isinstance(record, bytes) else record)
    except ValueError as error:  # its own text would repeat the record
        faults = error.errors() if isinstance(error, ValidationError) else []
        wrong = ", ".join(str(fault["loc"][0]) for fault in faults if fault["loc"]) or "it is no JSON object"
        raise RecordUnreadable(
            f"The record of the key {key_id} cannot be read: {wrong}. End this key with `dain keys revoke {key_id}`."
        ) from None


class KeysUnreadable(DainError):
    """The keys on record cannot be read: nobody can be let in until they can."""


class KeysMissing(KeysUnreadable):
    """There is no file of keys where there should be one."""


class RecordUnreadable(KeysUnreadable):
    """The record of one key cannot be read."""


class Keys(Protocol):
    """Where keys are kept."""

    def all(self) -> Mapping[str, Key]:
        """Every key by its id, as it stood within the last second. Raises KeysUnreadable or RedisError."""

    def get(self, key_id: str) -> Key | None:
        """The key with this id, whatever the records of others are. Raises as `all` does."""

    def put(self, key: Key) -> None:
        """Adds a key, or replaces the one with its id. Raises KeysUnreadable, OSError or RedisError."""


class FileKeys:
    """Keys in a file of JSON, ``{"keys": {"<id>": {…}}}``, which is read again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, ...], Mapping[str, Key]] = ((), {})

    def all(self) -> Mapping[str, Key]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        read, keys = self._read
        if stamp != read:
            keys = _parse(self._records())
            self._read = stamp, keys
        return keys

    def get(self, key_id: str) -> Key | None:
        records = self._records()
        return _parse_record(key_id, records[key_id]) if key_id in records else None

    def put(self, key: Key) -> None:
        with self._alone():
            records = self._records() if self._path.exists() else {}
            self._write({**records, key.id: key.model_dump(mode="json")})

    def create(self) -> None:
        """Makes a file without keys where there is none."""
        with self._alone():
            if not self._path.exists():
                self._write({})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps others from writing meanwhile: two commands at once lose no key."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _records(self) -> dict[str, Any]:
        try:
            records: dict[str, Any] = json.loads(self._path.read_bytes())["keys"]
            return dict(records)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._unreadable(error) from error

    def _write(self, records: Mapping[str, Any]) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, prefix=".keys-", delete=False) as file:
            try:
                json.dump({"keys": records}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
                if self._path.exists():
                    shutil.copymode(self._path, file.name)
                os.replace(file.name, self._path)
            except BaseException:
                os.unlink(file.name)
                raise

    def _unreadable(self, error: Exception) -> KeysUnreadable:
        if isinstance(error, FileNotFoundError):
            return KeysMissing(
                f"There is no file of keys {self._path}. Put it back, or make keys anew with `dain keys add NAME`."
            )
        if isinstance(error, OSError):
            fault = error.strerror or str(error)
        else:  # the texts of these errors are for programmers
            fault = 'it is no JSON object such as {"keys": {}}'
        return KeysUnreadable(
            f"The file of keys {self._path} cannot be read: {fault}. "
            "Correct it, or move it away and make keys anew with `dain keys add NAME`."
        )


class RedisKeys:
    """Keys in the Redis that the service's processes share; they are looked at again every second."""

    NAME = "dain:keys"
    SECONDS = 1.0

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._raw: Mapping[str, Any] = {}
        self._keys: Mapping[str, Key] = {}
        self._due = 0.0

    def all(self) -> Mapping[str, Key]:
        now = time.monotonic()
        if now >= self._due:
            raw = {text(name): value for name, value in self._redis.hgetall(self.NAME).items()}
            if raw != self._raw:
                self._keys = _parse(raw)
                self._raw = raw
            self._due = now + self.SECONDS
        return self._keys

    def get(self, key_id: str) -> Key | None:
        record = self._redis.hget(self.NAME, key_id)
        return None if record is None else _parse_record(key_id, record)

    def put(self, key: Key) -> None:
        self._redis.hset(self.NAME, key.id, key.model_dump_json())


def open_keys(settings: Settings, redis: Redis | None = None) -> Keys:
    """The keys in the file of `settings`; where it names none, those in `redis`, or in the Redis of `settings`."""
    if settings.keys_file is not None:
        return FileKeys(settings.keys_file)
    return RedisKeys(redis or Redis.from_url(settings.require_redis_url, socket_timeout=REDIS_SECONDS))


def check_exposure(settings: Settings) -> None:
    """Ends the process where the keys cannot be read, or where there are none and other machines may reach the API."""
    try:
        if open_keys(settings).all() or settings.open_without_keys:
            return
    except KeysUnreadable as error:
        sys.exit(f"{error} Nothing was started.")
    except RedisError:
        return  # it may come up later, as in containers; until then nobody is let in
    place = f"DAIN_KEYS_FILE={settings.keys_file} " if settings.keys_file else ""
    sys.exit(
        f"The API is to listen on {settings.host}, where other machines may reach it, and there is no key yet: "
        f"whoever reaches it could fetch and delete every job. Make a key with `{place}dain keys add NAME`, or listen "
        "on 127.0.0.1 (DAIN_HOST). Where nobody but you reaches that address, as behind a proxy with a login of its "
        "own, set DAIN_OPEN=true. Nothing was started."
    )
