"""How much a process reads and writes: the one sign of progress that every program gives, whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Moved:
    """Calls ``progressed`` when the process ``pid`` has read or written since the last `look`."""

    def __init__(self, pid: int, progressed: Callable[[], None]) -> None:
        self._account = Path(f"/proc/{pid}/io")
        self._progressed = progressed
        self._seen = ""

    def look(self) -> None:
        """Compare the kernel's account of the process with the last one. A process that has ended has none."""
        try:
            account = self._account.read_text()
        except OSError:
            return
        if account != self._seen:
            self._seen = account
            self._progressed()
