"""Private folders on this machine's disk, one for each attempt at something."""

from __future__ import annotations

import fcntl
import logging
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("dain.store")

_NAME = re.compile(r"[0-9a-f]{32}")


class Scratch:
    """Private folders under `root`, which is made where it is not there.

    What else lies under `root` is left alone, and named in the log once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._passed_over: set[Path] = set()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A private, empty folder, removed on the way out.

        The lock beside it tells `sweep` that its owner lives. The kernel frees the lock when the process ends, however
        it ends.
        """
        folder = self.root / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            with (folder / "owner").open("w") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX)
                work = folder / "work"
                work.mkdir(mode=0o700)
                yield work
        finally:
            shutil.rmtree(folder)

    def sweep(self, min_age_seconds: float) -> int:
        """Remove the folders of dead processes that are older than `min_age_seconds`; returns how many.

        A folder that cannot be removed is named in the log once; the others are swept.
        """
        oldest_kept = time.time() - min_age_seconds
        swept = 0
        for folder in self.root.iterdir():
            if not _NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
                self._pass_over(folder, "is no file of the service and is left alone")
                continue
            try:
                if folder.stat().st_mtime <= oldest_kept and not _is_locked(folder / "owner"):
                    shutil.rmtree(folder)
                    swept += 1
            except FileNotFoundError:  # its owner removed it meanwhile
                continue
            except OSError as error:
                self._pass_over(folder, f"cannot be removed: {error}")
        return swept

    def _pass_over(self, path: Path, why: str) -> None:
        if path not in self._passed_over:
            self._passed_over.add(path)
            log.warning("scratch/%s %s", path.name, why)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
