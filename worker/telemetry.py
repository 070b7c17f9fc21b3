"""What a worker says of itself: its record in Redis, written again and again by a thread of its own."""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from redis.exceptions import RedisError

from service.jobs.workers import TaskInHand, WorkerRecord, Workers
from worker.sensors import Sensors

log = logging.getLogger("dain.worker")

RATE_SECONDS = 60.0  # of work, that `frames_per_second` is taken over


class Rate:
    """Units a second, over the last minute of work."""

    def __init__(self) -> None:
        self._made: deque[tuple[float, float, float]] = deque()  # (when, units, seconds of work)

    def add(self, units: float, seconds: float) -> None:
        """Count units that took so many seconds of work up to now."""
        now = time.monotonic()
        self._made.append((now, units, seconds))
        while now - self._made[0][0] > RATE_SECONDS and len(self._made) > 1:
            self._made.popleft()

    @property
    def value(self) -> float:
        worked = sum(seconds for _, _, seconds in self._made)
        return sum(units for _, units, _ in self._made) / worked if worked else 0.0


@dataclass(eq=False)
class InHand:
    """A task in hand; of the frames that it `made`, so many were `counted`."""

    task: TaskInHand
    made: Callable[[], Made]
    counted: int = 0


@dataclass(frozen=True)
class Made:
    """What a task has made: output frames, and megapixels of new frames with a model ("": none)."""

    frames: int
    model: str = ""
    megapixels: float = 0.0


class Telemetry(threading.Thread):
    """Writes the worker's record five times in `ttl_seconds`, after which a silent worker counts as dead."""

    def __init__(self, workers: Workers, record: WorkerRecord, *, ttl_seconds: float):
        super().__init__(name="telemetry", daemon=True)
        self._workers = workers
        self._record = record
        self._sensors = Sensors(record.device)
        self._interval = ttl_seconds / 5
        self._beats: list[Callable[[], None]] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._in_hand: list[InHand] = []  # the latest to begin last
        self._frames = Rate()
        self._megapixels: defaultdict[str, Rate] = defaultdict(Rate)  # by model
        self._working_since = 0.0  # since the last task ended
        self._counted_at = 0.0

    def also(self, beat: Callable[[], None]) -> None:
        """Call `beat` at every heartbeat too."""
        self._beats.append(beat)

    def update(self, **fields: object) -> None:
        """Change fields of the record and write it at once."""
        with self._lock:
            self._record = self._record.model_copy(update=fields)
        self._write()

    @contextmanager
    def in_hand(self, job_id: str, task: str, made: Callable[[], Made]) -> Iterator[None]:
        """List a task as in hand while the context lasts; `made` says in the end what it has made.

        The janitor takes a task for lost that its worker does not list.
        """
        entry = InHand(TaskInHand(job=job_id, task=task), made)
        with self._lock:
            if not self._in_hand:
                self._working_since = self._counted_at = time.monotonic()
            self._in_hand.append(entry)
        self.update(**self._tasks())
        try:
            yield
        finally:
            with self._lock:
                self._count()
                self._in_hand.remove(entry)
                rates = self._rates_after(made())
            self.update(**self._tasks(), megapixels_per_second=rates)

    def run(self) -> None:
        while not self._stopping.wait(self._interval):
            self._write()

    def stop(self) -> None:
        """Stop reporting and strike the worker off the list."""
        self._stopping.set()
        self.join()
        try:
            self._workers.leave(self._record.name)
        except RedisError as error:  # the record expires
            log.warning("Redis does not take the farewell: %s", error)

    def _tasks(self) -> dict[str, object]:
        with self._lock:
            tasks = [entry.task for entry in self._in_hand]
        latest = tasks[-1] if tasks else None
        return {"tasks": tasks, "job": latest and latest.job, "task": latest and latest.task}

    def _rates_after(self, made: Made) -> dict[str, float]:
        """Megapixels a second by model, now that a task has made this much."""
        spent = time.monotonic() - self._working_since
        self._working_since += spent
        if made.megapixels:
            self._megapixels[made.model].add(made.megapixels, spent)
        return {model: rate.value for model, rate in self._megapixels.items()}

    def _count(self) -> None:
        """Put into the record what tasks in hand have made since it was last counted. The caller has the lock."""
        now, made = time.monotonic(), 0
        for entry in self._in_hand:
            frames = entry.made().frames
            made += frames - entry.counted
            entry.counted = frames
        if self._in_hand:
            self._frames.add(made, now - self._counted_at)
        self._counted_at = now
        counted = {"frames_per_second": self._frames.value, "frames_total": self._record.frames_total + made}
        self._record = self._record.model_copy(update=counted)

    def _write(self) -> None:
        used, total = vram(self._record.device)
        fields = {"vram_used_bytes": used, "vram_total_bytes": total, **asdict(self._sensors.read())}
        with self._lock:
            self._record = self._record.model_copy(update=fields)
            self._count()
        try:
            self._workers.heartbeat(self._record)
            for beat in self._beats:
                beat()
        except RedisError as error:
            log.warning("Redis does not take the heartbeat: %s", error)


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
    """The device's name for people: the GPU's or the processor's."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
