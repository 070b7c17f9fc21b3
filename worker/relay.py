"""Tasks one after another. Each begins beside the end of the one before.

A segment opens files and looks for its first frame before the network can start, and its last frames are encoded
after the network is done. The device would otherwise wait about a second each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.channel import CHECK_SECONDS

HEAD_START = 2.0  # seconds before the end of a task's turn that the next task begins


class Leg(threading.Thread):
    """One task, in a thread of its own."""

    def __init__(self, work: Callable[[Leg], None], device: threading.Lock) -> None:
        super().__init__(name="task")
        self._work = work
        self._device = device
        self._turn_began = 0.0
        self.passed = threading.Event()

    def run(self) -> None:
        try:
            self._work(self)
        finally:
            self.pass_on()

    def pass_on(self) -> None:
        """Let the next task begin."""
        self.passed.set()

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Have the device alone; then let the next task begin.

        `check` is called several times a second while another task has the device. It may raise to give up.
        """
        while not self._device.acquire(timeout=CHECK_SECONDS):
            check()
        self._turn_began = time.monotonic()
        try:
            yield
        finally:
            self._device.release()
        self.pass_on()

    def advance(self, done: int, total: int) -> None:
        """Say that `done` of the turn's `total` frames are made. The next task begins shortly before the last."""
        if (total - done) * (time.monotonic() - self._turn_began) < HEAD_START * done:
            self.pass_on()


class Relay:
    """Runs at most two tasks at a time, and lets one of them have the device."""

    def __init__(self) -> None:
        self._device = threading.Lock()
        self._last: Leg | None = None

    def run(self, work: Callable[[Leg], None]) -> None:
        """Start a task. Return when the next may be taken: this one has passed on, and the one before has ended."""
        before, self._last = self._last, Leg(work, self._device)
        self._last.start()
        self._last.passed.wait()
        if before:
            before.join()

    def finish(self) -> None:
        """Wait for the tasks in hand."""
        if self._last:
            self._last.join()
