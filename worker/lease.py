"""A worker's hold on the task in hand: it reports progress, and says when to stop."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from redis.exceptions import RedisError

from service.jobs.machine import Claim, Jobs
from worker.telemetry import Telemetry

log = logging.getLogger("dain.worker")

INTERVAL = 0.5  # seconds between reports: how soon a cancelled job stops


class Void(Exception):
    """The task is no longer ours: its job is over (cancelled, say), or another worker has it."""


class Drained(Exception):
    """The worker is to stop: the task goes back to the queue."""


class Lease:
    """Keeps a claim while its task runs. Redis being away does not end it: what was done is reported afterwards."""

    def __init__(self, jobs: Jobs, claim: Claim, telemetry: Telemetry, draining: threading.Event):
        self.claim = claim
        self.frames = 0
        self._waiting = False
        self._jobs = jobs
        self._telemetry = telemetry
        self._draining = draining
        self._void = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._report_often, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """Called often by the work; raises `Void` or `Drained` when it is to stop."""
        self._telemetry.touch(self.claim.job_id, self.claim.task)
        if self._void:
            raise Void
        if self._draining.is_set():
            raise Drained

    def advance(self, frames: int) -> None:
        """Say that `frames` more output frames are made."""
        self.frames += frames

    def wait(self, waiting: bool) -> None:
        """Say whether this attempt waits for the task before it, or from now on answers for its worker's end."""
        self._waiting = waiting
        self._report()

    def _report_often(self) -> None:
        while not self._void and not self._over.wait(INTERVAL):
            self._report()

    def _report(self) -> None:
        try:
            self._void = not self._jobs.report(self.claim, self.frames, waiting=self._waiting)
        except RedisError as error:
            log.warning("progress of %s not reported: %s", self.claim.task, error)
