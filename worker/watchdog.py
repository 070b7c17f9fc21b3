"""The watch over work in hand: a worker whose work makes no progress ends itself.

A kernel that spins, a codec that is stopped and a disk that does not answer cannot be interrupted from within. So the
whole process ends, its supervisor starts another, and the janitor gives the tasks to another worker once the record
of this one has expired.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("dain.worker")

HUNG = 70  # exit status of a worker that ended itself (EX_SOFTWARE)
LAST_WORDS_SECONDS = 2.0  # what a log on a disk that hangs may take of the end


class Watch:
    """One piece of work under watch. Any thread may call its methods."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ticks = 0  # of the watchdog, since the last progress
        self._is_paused = False

    def progressed(self) -> None:
        """Say that the work has got on: a frame is read, made or written, or bytes are moved.

        Waiting is no progress, and neither is asking whether to stop.
        """
        self.ticks = 0

    def tick(self) -> int:
        """Count one more tick of the watchdog without progress, and return how many there are now."""
        self.ticks = 0 if self._is_paused else self.ticks + 1
        return self.ticks

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the watch off a wait for something that is not this work's to hurry, and cannot hang unseen."""
        self._is_paused = True
        try:
            yield
        finally:
            self.progressed()
            self._is_paused = False


class Watchdog(threading.Thread):
    """Ends the process with status `HUNG` when a piece of work makes no progress for `stall_seconds`.

    Time is counted in ticks of this thread, not read from a clock: a process that was stopped as a whole, and goes
    on, has not hung.
    """

    def __init__(self, stall_seconds: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stall_seconds = stall_seconds
        self._interval = min(1.0, stall_seconds / 10)
        self._watches: set[Watch] = set()
        self._ending = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, name: str) -> Iterator[Watch]:
        """Watch over the work called `name` while the context lasts.

        with watchdog.watch("segment-0 of job 17") as watch:
            for frame in frames:
                write(frame)
                watch.progressed()
        """
        watch = Watch(name)
        with self._lock:
            self._watches.add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.remove(watch)

    def hold(self) -> None:
        """Return, unless this process is about to end: how its work ends when its children are killed is no outcome."""
        if self._ending.is_set():
            threading.Event().wait()

    def run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._interval):
            with self._lock:
                watches = list(self._watches)
            for watch in watches:
                if watch.tick() * self._interval > self._stall_seconds:
                    self._end(watch)

    def _end(self, watch: Watch) -> None:
        self._ending.set()
        last_words = threading.Timer(LAST_WORDS_SECONDS, os._exit, [HUNG])
        last_words.daemon = True
        last_words.start()
        log.critical("%s made no progress for %.0f s: this worker ends", watch.name, self._stall_seconds)
        kill_children()
        os._exit(HUNG)


def kill_children() -> None:
    """Kill the processes that this one has started: one that is stopped would not notice that this one ends."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended meanwhile
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if int(lines["PPid"]) == os.getpid():
                os.kill(int(lines["Pid"]), signal.SIGKILL)
