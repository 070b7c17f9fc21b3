"""Where uploads, plans, segments and results are kept: the protocol of a store, and `open_store`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from service.errors import DainError

WORKING_KINDS = ("uploads", "masks", "plans", "segments")  # what a job needs until it is over
#: `incoming` are uploads that came before a job was made of them: nobody has looked into them.
KINDS = (*WORKING_KINDS, "results", "incoming")
CACHE_BYTES = 16 * 2**30  # of copies that a machine keeps of a store elsewhere
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_KEY = re.compile(rf"({'|'.join(KINDS)})(/{_NAME}){{1,3}}")
_PREFIX = re.compile(rf"({'|'.join(KINDS)})/({_NAME}/?){{0,3}}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")
_REGION = re.compile(r"[a-z0-9-]+")


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


class StoreUnavailable(DainError, OSError):
    """The store does not do what it is asked to, and neither the file nor the caller is at fault. Its text says why,
    what to do, and no secret."""


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
    this service's own; a malformed one raises ValueError. An error of the disk raises OSError, and so does a store that
    cannot be reached (StoreUnavailable).

    A file of up to `whole_bytes` is soon fetched whole. A larger one that is wanted in parts is put with its `blocks`.
    """

    whole_bytes: int

    def scratch(self) -> AbstractContextManager[Path]:
        """A private, empty folder for one attempt at something, removed on the way out."""
        ...

    def sweep_scratch(self, min_age_seconds: float) -> int:
        """Remove the scratch folders of dead processes of this machine that are older than `min_age_seconds`; returns
        how many. One that cannot be removed is named in the log once."""
        ...

    def sweep_parts(self, min_age_seconds: float) -> int:
        """Remove the parts of files whose `put` began `min_age_seconds` ago and never ended; returns of how many."""
        ...

    def put(
        self, path: Path, key: str, *, sha256: str | None = None, step: Callable[[], None] = nothing
    ) -> Stored:
        """Move the scratch file `path` to `key`. When this returns, the file survives a power cut.

        `sha256` is the file's hash where the caller has it already. `step` is called after each block that is hashed or
        sent, and may raise to stop.
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

        `step` is called after each block that is hashed or received, and may raise to stop.

        Raises:
            StoreMissing: nothing is under `key`.
            StoreDamaged: the file has not this size or this hash.
        """
        ...

    def reader(self, key: str) -> AbstractContextManager[Callable[[int, int], bytes]]:
        """What reads the bytes of a file from the first number up to the second, unchecked: see `service.store.blocks`.

        Raises StoreMissing where nothing is under `key`, and StoreDamaged where the file ends before the first byte.
        """
        ...

    def link(self, stored: Stored, *, seconds: int, media_type: str, disposition: str) -> str | None:
        """A URL at which whoever has it may fetch the file `stored` for so long; None where the store has no such URLs.

        `media_type` and `disposition` are headers of the answer there.

        Raises:
            StoreMissing: nothing is under its key.
            StoreDamaged: its size or the hash that the store has of it is another.
        """
        ...

    def upload_link(self, key: str, size_bytes: int, *, seconds: int) -> str | None:
        """A URL at which whoever has it may PUT a file of this size, for so long; None where there are no such URLs."""
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

    def bytes_under(self, prefix: str) -> int:
        """The bytes of all files whose keys begin with `prefix`. It looks at each of them."""
        ...

    def delete(self, prefix: str) -> None:
        """Remove every key that begins with `prefix`; none is no error. Open readers keep what they read."""
        ...

    def check(self) -> None:
        """Write something and remove it; raises OSError where the store refuses."""
        ...

    def free_bytes(self) -> int:
        """Space left for new files, in bytes, on the disk where they are written first."""
        ...


@dataclass(frozen=True)
class Bucket:
    """The parts of a URL such as ``s3://bucket/prefix?endpoint=https://s3.example.com&region=eu-west-1``."""

    name: str
    prefix: str = ""  #: of every key, with its slash; "" for none
    endpoint: str | None = None  #: None: Amazon's
    region: str | None = None  #: None: the environment's

    @classmethod
    def from_url(cls, url: str) -> Bucket:
        """The bucket of `url`; raises ValueError where it names none. The error repeats nothing of the query."""
        parts = urlsplit(url)
        if "@" in parts.netloc or ":" in parts.netloc:
            raise ValueError(
                "an s3:// URL holds no credentials and no port: give credentials by the usual variables "
                "(AWS_ACCESS_KEY_ID …) or the machine's role, and the server as ?endpoint=https://host:port"
            )
        if not _BUCKET.fullmatch(parts.netloc):
            raise ValueError("the URL names no bucket; give one such as s3://bucket/prefix")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        endpoint, region = query.pop("endpoint", None), query.pop("region", None)
        if query or parts.fragment:
            raise ValueError("an s3:// URL takes endpoint and region after the ?, and nothing else")
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError("the endpoint of the URL is no address such as https://s3.example.com:9000")
        if region is not None and not _REGION.fullmatch(region):
            raise ValueError("the region of the URL is no name such as eu-west-1")
        prefix = unquote(parts.path).strip("/")
        return cls(parts.netloc, f"{prefix}/" if prefix else "", endpoint, region)


def open_store(url: str, cache: Path | None = None, cache_bytes: int = CACHE_BYTES) -> Store:
    """The store at `url`: ``file:///var/lib/dain/store``, made where there is none, or ``s3://bucket/prefix``.

    A store on other machines keeps its scratch files in the folder `cache`, and there copies of what was read last,
    which may have `cache_bytes`. Nothing is asked of such a store yet.

    Raises:
        ValueError: `url` names no store of a known kind, or one whose kind needs what is not given or not installed.
    """
    parts = urlsplit(check_url(url))
    if parts.scheme == "file":  # a kind of store is imported where one is opened
        from service.store.local import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    if cache is None:
        raise ValueError("a store on other machines needs a folder here")
    from service.store.s3 import S3Store

    return S3Store(Bucket.from_url(url), cache, cache_bytes)


def check_url(url: str) -> str:
    """`url` itself; raises ValueError where it names no store of a known kind. The error does not repeat it: it may
    hold a password."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        Bucket.from_url(url)
        if find_spec("boto3") is None:
            raise ValueError(
                "an s3:// store needs the package boto3: `pip install '.[s3]'` in the project's folder brings it"
            )
    elif parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        raise ValueError(
            "the URL names no store; give a local folder such as file:///var/lib/dain/store, or s3://bucket/prefix"
        )
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
