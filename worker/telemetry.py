"""What a worker says of itself, and the watch over it: one thread that reports, and ends a worker that hangs."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable

import torch
from redis.exceptions import RedisError

from service.jobs.workers import TaskInHand, WorkerRecord, Workers

log = logging.getLogger("dain.worker")

WINDOW = 60.0  # seconds of work that frames_per_second is taken over
HUNG = 70  # exit status of a worker that ended itself (EX_SOFTWARE)


class Telemetry(threading.Thread):
    """Writes the worker's record every `interval` seconds, and ends the process when a task stalls.

    A hung kernel or a stuck disk cannot be interrupted from within, so the whole process goes (`os._exit`)
    and its supervisor starts a new one; the task it had is given to another worker once this record expires.
    """

    def __init__(self, workers: Workers, record: WorkerRecord, *, ttl_seconds: float, stall_seconds: float):
        super().__init__(name="telemetry", daemon=True)
        self._workers = workers
        self._record = record
        self._interval = ttl_seconds / 5
        self._stall_seconds = stall_seconds
        self._beats: list[Callable[[], None]] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._signs_of_life: dict[tuple[str, str], float] = {}  # by task in hand, the latest to begin last
        self._frames: deque[tuple[float, int, float]] = deque()  # (when, frames, seconds of work)
        self._working_since = 0.0

    def also(self, beat: Callable[[], None]) -> None:
        """Call `beat` at every heartbeat too."""
        self._beats.append(beat)

    def update(self, **fields: object) -> None:
        """Change fields of the record and report them at once."""
        with self._lock:
            self._record = self._record.model_copy(update=fields)
        self._report()

    def begin(self, job_id: str, task: str) -> None:
        """A task is taken in hand."""
        with self._lock:
            if not self._signs_of_life:
                self._working_since = time.monotonic()
            self._signs_of_life[job_id, task] = time.monotonic()
        self.update(job=job_id, task=task, tasks=self._tasks())

    def touch(self, job_id: str, task: str) -> None:
        """A sign of life from a task in hand."""
        self._signs_of_life[job_id, task] = time.monotonic()

    def end(self, job_id: str, task: str, frames: int) -> None:
        """A task is over; it made `frames` output frames."""
        now = time.monotonic()
        with self._lock:
            del self._signs_of_life[job_id, task]
            self._frames.append((now, frames, now - self._working_since))
            self._working_since = now
            while now - self._frames[0][0] > WINDOW and len(self._frames) > 1:
                self._frames.popleft()
            worked = sum(spent for _, _, spent in self._frames)
            rate = sum(count for _, count, _ in self._frames) / worked if worked else 0.0
            job, current = next(reversed(self._signs_of_life), (None, None))
            total = self._record.frames_total + frames
        self.update(job=job, task=current, tasks=self._tasks(), frames_per_second=rate, frames_total=total)

    def _tasks(self) -> list[TaskInHand]:
        with self._lock:
            return [TaskInHand(job=job_id, task=task) for job_id, task in self._signs_of_life]

    def run(self) -> None:
        while not self._stopping.wait(self._interval):
            self._end_if_hung()
            self._report()

    def stop(self) -> None:
        """Stop reporting and strike the worker off the list."""
        self._stopping.set()
        self.join()
        self._workers.leave(self._record.name)

    def _report(self) -> None:
        used, total = vram(self._record.device)
        with self._lock:
            fields = {"vram_used_bytes": used, "vram_total_bytes": total}
            self._record = self._record.model_copy(update=fields)
        try:
            self._workers.heartbeat(self._record)
            for beat in self._beats:
                beat()
        except RedisError as error:
            log.warning("no heartbeat: %s", error)

    def _end_if_hung(self) -> None:
        with self._lock:
            silent = [task for task, alive in self._signs_of_life.items() if self._is_too_long_ago(alive)]
        if silent:
            log.critical(
                "no sign of life from %s of job %s for %.0f s: ending this worker",
                *reversed(silent[0]),
                self._stall_seconds,
            )
            os._exit(HUNG)

    def _is_too_long_ago(self, moment: float) -> bool:
        return time.monotonic() - moment > self._stall_seconds


def vram(device: str) -> tuple[int, int]:
    """Bytes of GPU memory in use (by anybody) and in all; zeros on a CPU."""
    if not device.startswith("cuda"):
        return 0, 0
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:  # the GPU is lost: the task that lost it ends this worker, in good order
        log.warning("the GPU does not say how much of its memory is in use: %s", error)
        return 0, 0
    return total - free, total


def describe(device: str) -> str:
    """The device for people: the GPU's or the processor's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
