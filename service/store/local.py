"""Uploads, segments and results by key, in a local directory."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.settings import Settings

_KEY = re.compile(r"(uploads|plans|segments|results)(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){1,3}")
_PREFIX = re.compile(r"(uploads|plans|segments|results)/([A-Za-z0-9][A-Za-z0-9._-]{0,127}/?){0,3}")


class Store:
    """Files under keys such as ``uploads/<job>``: durable, whole or absent, never changed once put.

    Nothing is under a key before `put` made it durable, and whatever is not put is gone with its `scratch`
    folder. Keys are this service's own; a malformed one raises ValueError.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scratch = root / "scratch"
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def from_url(cls, url: str) -> Store:
        """The store at a ``file:///folder`` URL, made where there is none; ValueError on any other URL."""
        parts = urlsplit(url)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
            raise ValueError(
                f"store_url is {url!r}; it must be a local folder such as file:///var/lib/dain/store"
            )
        return cls(Path(unquote(parts.path)))

    @classmethod
    def from_settings(cls, settings: Settings) -> Store:
        return cls.from_url(settings.store_url)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private, empty folder on the store's disk for one attempt at something, removed on the way out.

        The lock beside it tells `sweep_scratch` that its owner lives; it is freed with the process, however
        that ends.
        """
        folder = self._scratch / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            with (folder / "owner").open("w") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX)
                work = folder / "work"
                work.mkdir(mode=0o700)
                yield work
        finally:
            shutil.rmtree(folder)

    def sweep_scratch(self, min_age_seconds: float) -> int:
        """Removes scratch folders older than `min_age_seconds` whose owner is dead; returns how many."""
        oldest_kept = time.time() - min_age_seconds
        swept = 0
        for folder in self._scratch.iterdir():
            try:
                if folder.stat().st_mtime <= oldest_kept and not _is_locked(folder / "owner"):
                    shutil.rmtree(folder)
                    swept += 1
            except FileNotFoundError:  # its owner removed it meanwhile
                continue
        return swept

    def put(self, path: Path, key: str) -> None:
        """Moves the scratch file `path` to `key`. When this returns, the file survives a power cut."""
        target = self._path(key)
        _sync(path)
        while True:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                path.replace(target)
                break
            except FileNotFoundError:  # `delete` removed the empty folder between the two calls
                if not path.exists():
                    raise
        for folder in target.parents:
            _sync(folder)
            if folder == self.root:
                break

    @contextmanager
    def fetch(self, key: str) -> Iterator[Path]:
        """A local file to read while the context lasts; raises FileNotFoundError where there is none."""
        path = self._path(key)
        path.stat()
        yield path

    def size(self, key: str) -> int:
        """Bytes under `key`; raises FileNotFoundError where there is nothing."""
        return self._path(key).stat().st_size

    def exists(self, key: str) -> bool:
        return self._path(key).exists()

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, e.g. ``segments/<job>/``; at the least a kind and its slash."""
        for path in self._under(prefix):
            yield path.relative_to(self.root).as_posix()

    def delete(self, prefix: str) -> None:
        """Removes every key that begins with `prefix`; none is no error. Open readers keep what they read.

        A prefix that ends in a slash costs what lies under it; any other has all its neighbours looked at.
        """
        for path in self._under(prefix):
            path.unlink(missing_ok=True)
            if path.parent.parent != self.root:
                _remove_if_empty(path.parent)

    def free_bytes(self) -> int:
        """Disk space left for new files."""
        return shutil.disk_usage(self.root).free

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no store key")
        return self.root / key

    def _under(self, prefix: str) -> list[Path]:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} is no store prefix")
        folder, start = self.root / prefix.rpartition("/")[0], prefix.rpartition("/")[2]
        if not folder.is_dir():
            return []
        found = [path for path in folder.iterdir() if path.name.startswith(start)]
        return sorted(
            file
            for path in found
            for file in ([path] if path.is_file() else path.rglob("*"))
            if file.is_file()
        )


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # filled again, or removed already
        folder.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
