"""A worker without its loop, whose network is an average, for tests that run tasks in their own process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from service.api.options import parse_options
from service.jobs.machine import Jobs
from service.jobs.names import PLAN, new_job_id
from service.jobs.queue import Queue, split_id
from service.jobs.records import Job, Origin
from service.jobs.workers import WorkerRecord, Workers
from service.settings import Settings
from tests.worker.conftest import Average
from worker import work as tasks
from worker.attempt import Runtime
from worker.media.sandbox import probe
from worker.models import Models
from worker.telemetry import Telemetry
from worker.watchdog import Watchdog


class Interruptible(Average):
    def __init__(self, model_name: str) -> None:
        super().__init__()
        self.model_name = model_name

    @contextmanager
    def interruptible(self, check: Callable[[], None]) -> Iterator[None]:
        yield


class Bench:
    """A worker without its loop: `work` takes what waits in the queue, as RQ would."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.jobs, self.queue = Jobs.from_settings(redis, settings), Queue(redis)
        self.store, self.workers = settings.open_store(), Workers(redis, ttl_seconds=15)
        record = WorkerRecord(
            name="bench", host="here", pid=1, device="cpu", device_name="cpu", backend="cpu", model="dain",
            precision="fp32", ready=True, started_at=0.0,
        )  # fmt: skip
        self.telemetry = Telemetry(self.workers, record, ttl_seconds=15)
        self.telemetry.update(ready=True)
        self.stopped = False
        self.draining = threading.Event()
        self.models = Models(self.load, "auto")
        self.runtime = Runtime(
            name="bench",
            settings=settings,
            jobs=self.jobs,
            queue=self.queue,
            store=self.store,
            models=self.models,
            telemetry=self.telemetry,
            watchdog=Watchdog(stall_seconds=60),
            draining=self.draining,
            stop_after_task=lambda: setattr(self, "stopped", True),
        )
        tasks.install(self.runtime)

    def load(self, name: str) -> Any:
        return Interruptible("dain-lite" if name == "auto" else name)

    def accept(
        self,
        source: Path,
        tmp_path: Path,
        upload: bytes | None = None,
        work: float = 0,
        mask: str | None = None,
        origin: Origin | None = None,
        **options: object,
    ) -> Job:
        """A job on `source`; where `upload` is given, that is what the store holds of it meanwhile."""
        job_id = new_job_id()
        copy = tmp_path / "upload"
        copy.write_bytes(source.read_bytes() if upload is None else upload)
        stored = self.store.put(copy, f"uploads/{job_id}")
        job = self.jobs.create(
            job_id,
            source=stored.key,
            source_sha256=stored.sha256,
            filename=source.name,
            options=parse_options(options).model_copy(update={"mask": mask}),
            input={},
            facts=probe(source).as_dict(),
            work=work,
            origin=origin,
        )
        self.queue.enqueue(job_id, PLAN)
        return job

    def work(self, most: int = 100) -> int:
        """Run waiting tasks to their end, by turns; returns how many."""
        for done in range(most):
            if not self.queue.depth():
                return done
            self.take()
            self.runtime.relay.finish()
        return most

    def take(self) -> None:
        """Run the waiting task whose turn it is until the next may begin beside it."""
        job_id, task = split_id(self.queue.rq.pop_job_id())
        tasks.run(job_id, task)

    def keys(self, *kinds: str) -> list[str]:
        return [key for kind in kinds for key in self.store.keys(f"{kind}/")]
