"""Where uploads, plans, segments and results are kept: the protocol of a store, and `open_store`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from service.errors import DainError

WORKING_KINDS = ("uploads", "plans", "segments")  # what a job needs until it is over
KINDS = (*WORKING_KINDS, "results")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_KEY = re.compile(rf"({'|'.join(KINDS)})(/{_NAME}){{1,3}}")
_PREFIX = re.compile(rf"({'|'.join(KINDS)})/({_NAME}/?){{0,3}}")


def nothing() -> None:
    """The step of a caller that does not follow the work."""


class StoreDamaged(DainError):
    """A stored file is not what was put there. `key` is its name in the store, `reason` what is wrong with it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f"The file {key} in the service's store {reason}. The store has lost or changed it; check its disk."
        )
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.reason)


class StoreMissing(StoreDamaged):
    """There is no file under `key`."""

    def __init__(self, key: str, reason: str = "is missing") -> None:
        super().__init__(key, reason)


@dataclass(frozen=True)
class Stored:
    """A file as it was published. A record of an earlier version may have neither size nor hash."""

    key: str
    size_bytes: int | None = None
    sha256: str | None = None

    def as_fields(self) -> dict[str, Any]:
        """The fields of a task's record that hold this."""
        fields = {"key": self.key, "size_bytes": self.size_bytes, "sha256": self.sha256}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Stored | None:
        """The file of a task's record; None where it names none."""
        if not fields.get("key"):
            return None
        size = fields.get("size_bytes")
        return cls(fields["key"], None if size is None else int(size), fields.get("sha256"))


class Store(Protocol):
    """Files under keys such as ``uploads/<job>``: durable, whole or absent, never changed once put.

    Nothing is under a key before `put` made it durable. What is not put is gone with its `scratch` folder. Keys are
    this service's own; a malformed one raises ValueError. An error of the disk raises OSError.
    """

    def scratch(self) -> AbstractContextManager[Path]:
        """A private, empty folder for one attempt at something, removed on the way out."""
        ...

    def sweep_scratch(self, min_age_seconds: float) -> int:
        """Remove the scratch folders of dead processes that are older than `min_age_seconds`; returns how many."""
        ...

    def put(
        self, path: Path, key: str, *, sha256: str | None = None, step: Callable[[], None] = nothing
    ) -> Stored:
        """Move the scratch file `path` to `key`. When this returns, the file survives a power cut.

        `sha256` is the file's hash where the caller has it already. Otherwise `step` is called after each block that
        is hashed, and may raise to stop.
        """
        ...

    def fetch(
        self,
        key: str,
        *,
        size_bytes: int | None = None,
        sha256: str | None = None,
        step: Callable[[], None] = nothing,
    ) -> AbstractContextManager[Path]:
        """A local file to read while the context lasts, e.g. ``with store.fetch(key, sha256=known) as path``.

        `step` is called after each block that is hashed, and may raise to stop.

        Raises:
            StoreMissing: nothing is under `key`.
            StoreDamaged: the file has not this size or this hash.
        """
        ...

    def size(self, key: str) -> int:
        """Bytes under `key`; raises StoreMissing where there is nothing."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is a file under `key`."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, e.g. ``segments/<job>/``; at the least a kind and its slash."""
        ...

    def delete(self, prefix: str) -> None:
        """Remove every key that begins with `prefix`; none is no error. Open readers keep what they read."""
        ...

    def free_bytes(self) -> int:
        """Space left for new files."""
        ...


def open_store(url: str) -> Store:
    """The store at `url`, e.g. ``file:///var/lib/dain/store``, made where there is none.

    Raises:
        ValueError: `url` names no store of a known kind.
    """
    from service.store.local import LocalStore  # a kind of store is imported where one is opened

    return LocalStore(Path(unquote(urlsplit(check_url(url)).path)))


def check_url(url: str) -> str:
    """`url` itself; raises ValueError where it names no store of a known kind. The error does not repeat it: it may
    hold a password."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        raise ValueError("the URL names no store; give a local folder such as file:///var/lib/dain/store")
    return url


def check_key(key: str) -> str:
    """`key` itself; raises ValueError where it is no key of a store."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no store key")
    return key


def is_key(text: str) -> bool:
    """Whether `text` has the form of a key."""
    return bool(_KEY.fullmatch(text))


def check_prefix(prefix: str) -> str:
    """`prefix` itself; raises ValueError where it is no prefix of keys, or one of everything."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} is no store prefix")
    return prefix
