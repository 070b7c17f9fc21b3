"""A store in a local directory, which several machines may share."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from service.store import Stored, StoreDamaged, StoreMissing, check_key, check_prefix, is_key, nothing
from service.store.hashes import hash_file
from service.store.scratch import Scratch

log = logging.getLogger("dain.store")

MOST_REMEMBERED = 4096  # hashes of files that were checked


class LocalStore:
    """The files of `service.store.Store` under the folder `root`, which is made where it is not there.

    What else lies in the folder (`lost+found`, `.nfs…`, `.DS_Store`) is passed over, and named in the log once. So is
    a link, which may lead out of the store; only the folder of a whole kind, such as `results`, may be a link.
    """

    whole_bytes = 2 * 2**30  # which are hashed in seconds, and remembered

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scratch = Scratch(root / "scratch")
        self._passed_over: set[Path] = set()
        self._checked = _Checked()

    def scratch(self) -> AbstractContextManager[Path]:
        return self._scratch.folder()

    def sweep_scratch(self, min_age_seconds: float) -> int:
        return self._scratch.sweep(min_age_seconds)

    def sweep_parts(self, min_age_seconds: float) -> int:
        """None: a file comes into its place whole."""
        return 0

    def put(
        self, path: Path, key: str, *, sha256: str | None = None, step: Callable[[], None] = nothing
    ) -> Stored:
        target = self._path(key)
        stored = Stored(key, path.stat().st_size, sha256 or hash_file(path, step))
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
        return stored

    @contextmanager
    def fetch(
        self,
        key: str,
        *,
        size_bytes: int | None = None,
        sha256: str | None = None,
        step: Callable[[], None] = nothing,
    ) -> Iterator[Path]:
        """The file itself. It is hashed once for as long as its time stamps and inode stay the same."""
        path = self._path(key)
        size = self.size(key)
        if size_bytes is not None and size != size_bytes:
            raise StoreDamaged(key, f"has {size} bytes instead of {size_bytes}")
        try:
            if sha256 is not None and self._checked.hash(path, step) != sha256:
                raise StoreDamaged(key, "has other contents than were put there")
        except FileNotFoundError:
            raise StoreMissing(key) from None
        yield path

    @contextmanager
    def reader(self, key: str) -> Iterator[Callable[[int, int], bytes]]:
        try:
            file = self._path(key).open("rb", buffering=0)
        except FileNotFoundError:
            raise StoreMissing(key) from None
        with file:
            yield lambda first, stop: os.pread(file.fileno(), stop - first, first)

    def link(self, stored: Stored, *, seconds: int, media_type: str, disposition: str) -> None:
        """None: a folder answers no requests."""

    def upload_link(self, key: str, size_bytes: int, *, seconds: int) -> None:
        """None, too."""

    def size(self, key: str) -> int:
        try:
            return self._path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise StoreMissing(key) from None

    def exists(self, key: str) -> bool:
        return self._path(key).exists()

    def keys(self, prefix: str) -> Iterator[str]:
        for path in self._under(prefix):
            yield path.relative_to(self.root).as_posix()

    def bytes_under(self, prefix: str) -> int:
        total = 0
        for path in self._under(prefix):
            with suppress(FileNotFoundError):  # removed meanwhile
                total += path.stat().st_size
        return total

    def delete(self, prefix: str) -> None:
        """As in the protocol. A prefix that ends in a slash costs what lies under it; any other looks at all its
        neighbours."""
        for path in self._under(prefix):
            path.unlink(missing_ok=True)
            if path.parent.parent != self.root:
                _remove_if_empty(path.parent)

    def check(self) -> None:
        with self.scratch() as folder:
            (folder / "written").write_bytes(b"yes")

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _under(self, prefix: str) -> list[Path]:
        """The files whose keys begin with `prefix`, in order."""
        kind, *names, start = check_prefix(prefix).split("/")
        folder = self.root / kind
        for name in names:
            folder /= name
            if folder.is_symlink():
                self._pass_over(folder)
                return []
        return sorted(self._files(folder, start))

    def _files(self, folder: Path, start: str = "") -> Iterator[Path]:
        try:
            entries = [path for path in folder.iterdir() if path.name.startswith(start)]
        except (FileNotFoundError, NotADirectoryError):  # never made, or removed meanwhile
            return
        for path in entries:
            if path.is_symlink() or not is_key(path.relative_to(self.root).as_posix()):
                self._pass_over(path)
            elif path.is_dir():
                yield from self._files(path)
            elif path.is_file():
                yield path

    def _pass_over(self, path: Path) -> None:
        if path not in self._passed_over:
            self._passed_over.add(path)
            log.warning("%s is no file of the service and is left alone", path.relative_to(self.root))


class _Checked:
    """Hashes of files, kept for as long as the files' time stamps say that nobody wrote to them."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], str] = OrderedDict()
        self._lock = threading.Lock()
        self._hashing = [threading.Lock() for _ in range(64)]  # shared out among files

    def hash(self, path: Path, step: Callable[[], None]) -> str:
        """The SHA-256 of the file at `path`, in hex."""
        facts = path.stat()
        mark = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        with self._hashing[hash(mark) % len(self._hashing)]:  # of many readers one does the work
            with self._lock:
                if mark in self._known:
                    return self._known[mark]
            found = hash_file(path, step)
            with self._lock:
                self._known[mark] = found
                while len(self._known) > MOST_REMEMBERED:
                    self._known.popitem(last=False)
            return found


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # filled again, or removed already
        folder.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
