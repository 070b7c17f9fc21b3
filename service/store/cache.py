"""Copies, on this machine, of files that a store elsewhere holds."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.store.scratch import Scratch

IDLE_SECONDS = 900.0  # a copy that nobody read for so long goes: its job is most likely over
LOOK_SECONDS = 0.1  # between two looks whether another reader has fetched the file
LOCKS = 64  # shared out among keys


class Cache:
    """Copies of files in the folder `root`, of `max_bytes` at most beside those that are being read.

    The processes of a machine share it. A file that several of them want is fetched once.
    """

    def __init__(self, root: Path, scratch: Scratch, max_bytes: int) -> None:
        self._copies = root / "copies"
        self._locks = root / "locks"
        for folder in (self._copies, self._locks):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._scratch = scratch
        self._max_bytes = max_bytes

    @contextmanager
    def hold(
        self,
        key: str,
        fetch: Callable[[Path], None],
        *,
        is_good: Callable[[Path], bool],
        step: Callable[[], None],
    ) -> Iterator[Path]:
        """A copy of the file `key` to read while the context lasts.

        Where there is none, or none that `is_good`, `fetch` writes one to the path that it is given. `step` is called
        while another reader fetches the file.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        copy = self._copies / name
        with self._scratch.folder() as folder:
            mine = folder / "copy"  # a link of this reader's own: the copy may go meanwhile
            with self._locked(name, step):
                with suppress(FileNotFoundError):
                    os.link(copy, mine)
                    os.utime(copy)
                if not mine.exists() or not is_good(mine):
                    mine.unlink(missing_ok=True)
                    fetch(mine)
                    os.link(mine, folder / "shared")
                    (folder / "shared").replace(copy)
            self.evict()
            yield mine

    def evict(self) -> None:
        """Remove the copies that were not read for a while, and the longest unread of those above `max_bytes`."""
        room = self._max_bytes
        oldest_kept = time.time() - IDLE_SECONDS
        for facts, copy in sorted(self._found(), key=lambda found: -found[0].st_mtime):
            if facts.st_size > room or facts.st_mtime < oldest_kept:
                copy.unlink(missing_ok=True)
            else:
                room -= facts.st_size

    def _found(self) -> Iterator[tuple[os.stat_result, Path]]:
        for copy in self._copies.iterdir():
            with suppress(FileNotFoundError):  # removed meanwhile
                yield copy.stat(), copy

    @contextmanager
    def _locked(self, name: str, step: Callable[[], None]) -> Iterator[None]:
        with (self._locks / str(int(name, 16) % LOCKS)).open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    step()
                    time.sleep(LOOK_SECONDS)
            yield
