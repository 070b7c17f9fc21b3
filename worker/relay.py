"""Tasks one after another, the beginning of each beside the end of the one before.

A segment opens files and looks for its first frame before the network can start, and its last frames are encoded
after the network is done: about a second that the device would otherwise wait each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.channel import CHECK_SECONDS


class Leg(threading.Thread):
    """One task, in a thread of its own."""

    def __init__(self, work: Callable[[Leg], None], device: threading.Lock) -> None:
        super().__init__(name="task")
        self._work = work
        self._device = device
        self.passed = threading.Event()

    def run(self) -> None:
        try:
            self._work(self)
        finally:
            self.pass_on()

    def pass_on(self) -> None:
        """The next task may begin."""
        self.passed.set()

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Have the device alone; `check` is called while waiting for it, and may raise to give up."""
        while not self._device.acquire(timeout=CHECK_SECONDS):
            check()
        try:
            yield
        finally:
            self._device.release()


class Relay:
    """Runs at most two tasks at a time, and lets one of them have the device."""

    def __init__(self) -> None:
        self._device = threading.Lock()
        self._last: Leg | None = None

    def run(self, work: Callable[[Leg], None]) -> None:
        """Start a task; returns when the next may be taken: it has passed on, and the one before it has ended."""
        before, self._last = self._last, Leg(work, self._device)
        self._last.start()
        self._last.passed.wait()
        if before:
            before.join()

    def finish(self) -> None:
        """Wait for the tasks in hand."""
        if self._last:
            self._last.join()
