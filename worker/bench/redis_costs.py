"""Measures what each operation of the service costs Redis: `python -m worker.bench.redis_costs`.

Each client does one thing many times over, and Redis says what processor time that took. Redis writes its file once for
all clients that it hears at a time. The cost of one client alone is therefore an upper bound; compare `--clients 50`.
The row `SET` serves to compare this machine with another.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from redis import Redis

from service.api.metrics import Metrics
from service.api.service import Service
from service.jobs.janitor import Janitor
from service.jobs.machine import Claim, Jobs
from service.jobs.names import PLAN, new_job_id, segment_name
from service.jobs.options import Options
from service.jobs.queue import Queue, WarmWorker
from service.jobs.workers import WorkerRecord, Workers
from service.settings import Settings
from worker.bench.fleet import running_redis

SECONDS = 2.0  # for each operation
TOTALS = {
    "frames": 96.0,
    "new_frames": 48.0,
    "seconds_decode": 1.0,
    "seconds_inference": 2.0,
    "seconds_encode": 1.0,
}


class Bench:
    """A service with `size` workers, each with a task in hand, and with as many waiting tasks."""

    def __init__(self, settings: Settings, size: int):
        self.redis = Redis.from_url(settings.require_redis_url)
        self.jobs = Jobs.from_settings(self.redis, settings)
        self.queue = Queue(self.redis)
        self.workers = Workers(self.redis, ttl_seconds=3600)
        self.janitor = Janitor(
            self.jobs, self.queue, self.workers, settings.open_store(), record_ttl_seconds=3600
        )
        self.metrics = Metrics()
        self.metrics.watch(Service.from_settings(settings))
        self.size = size
        self.claims = [self._start(number) for number in range(size)]

    def _start(self, number: int) -> Claim:
        """A worker with a plan in hand, and another job's plan in the queue."""
        name = f"host-{number:08x}"
        self.workers.heartbeat(record(name))
        claim = self.jobs.claim(self.submit(enqueue=False), PLAN, name)
        self.submit()
        return claim

    def submit(self, *, enqueue: bool = True) -> str:
        job_id = new_job_id()
        self.jobs.create(
            job_id, source=f"uploads/{job_id}", filename="clip.mp4", options=Options(), input={"frames": 240}
        )
        if enqueue:
            self.queue.enqueue(job_id, PLAN)
        return job_id

    def operations(self) -> Iterator[tuple[str, Callable[[], object]]]:
        claim = self.claims[0]
        worker = WarmWorker(self.redis, "host-bench", on_drain=lambda: None)
        worker.register_birth()

        def heartbeat() -> None:
            self.workers.heartbeat(record(worker.name))
            worker.beat()

        numbers = count()
        yield "SET", lambda: self.redis.set("x", "y")
        yield "submit: record and queue a job", self.submit
        yield "poll: GET /jobs/ID", lambda: self.jobs.get(claim.job_id)
        yield "report progress", lambda: self.jobs.report(claim, next(numbers))
        yield "heartbeat", heartbeat
        yield f"GET /workers, {self.size} workers", self.workers.all
        yield f"GET /metrics, {self.size} workers", self.metrics.text
        yield f"janitor's look, {self.size} tasks running, {self.size} waiting", self.janitor.redeliver


def record(name: str) -> WorkerRecord:
    return WorkerRecord(
        name=name,
        host="host",
        pid=1,
        device="cuda:0",
        device_name="NVIDIA H100 80GB HBM3",
        backend="cuda",
        model="dain",
        precision="fp16",
        ready=True,
        job="0" * 28,
        task="segment-17",
        started_at=time.time(),
    )


class Segments:
    """Runs a job of many empty segments through RQ and the job's record, one after another."""

    def __init__(self, bench: Bench, total: int):
        self.bench, self.total = bench, total
        module = ModuleType("worker.tasks")  # by its name the queue finds what to run
        vars(module).update(plan=self._plan, segment=self._segment, assemble=lambda *_: None)
        sys.modules["worker.tasks"] = module
        bench.redis.delete(bench.queue.rq.key)  # nothing but these segments

    def run(self) -> int:
        """Run the job; gives the number of its segments."""
        self.bench.submit()
        WarmWorker(self.bench.redis, "host-segments", on_drain=lambda: None).work(
            burst=True, logging_level="ERROR"
        )
        return self.total

    def _plan(self, job_id: str, task: str) -> None:
        totals = {"segments_total": self.total, "frames_total": 96 * self.total}
        self._complete(self.bench.jobs.claim(job_id, task, "host-segments"), job=totals)

    def _segment(self, job_id: str, task: str) -> None:
        claim = self.bench.jobs.claim(job_id, task, "host-segments")
        self.bench.jobs.get(job_id)
        self._complete(claim, task={"key": f"segments/{job_id}/{segment_name(0)}.mp4"}, add=TOTALS)

    def _complete(self, claim: Claim, **results: Any) -> None:
        for task in self.bench.jobs.complete(claim, **results) or ():
            self.bench.queue.enqueue(claim.job_id, task)


class Meter:
    """Reads the processor time, commands, traffic and memory of Redis before and after an operation."""

    def __init__(self, redis: Redis):
        self._redis = redis

    def read(self) -> tuple[float, int, int, int]:
        info = self._redis.info("all")
        return (
            info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            info["total_commands_processed"],
            info["total_net_input_bytes"] + info["total_net_output_bytes"],
            info["used_memory"],
        )

    def show(self, name: str, repeat: Callable[[], int]) -> None:
        before = self.read()
        begun = time.perf_counter()
        times = repeat()
        wall = (time.perf_counter() - begun) / times
        cpu, commands, traffic, kept = (
            (now - then) / times for now, then in zip(self.read(), before, strict=True)
        )
        print(
            f"{name:60} {cpu * 1e6:9.0f} us {commands:8.1f} commands {traffic:10.0f} bytes sent, {kept:6.0f} kept"
            f" {wall * 1e3:9.2f} ms"
        )


def repeatedly(call: Callable[[], object], clients: int) -> int:
    """Let each of `clients` threads call for `SECONDS`; gives the number of calls."""
    end = time.monotonic() + SECONDS

    def repeat() -> int:
        for times in count(1):
            call()
            if time.monotonic() > end:
                return times
        raise AssertionError

    with ThreadPoolExecutor(clients) as pool:
        return sum(task.result() for task in [pool.submit(repeat) for _ in range(clients)])


@click.command()
@click.option("--size", default=1000, show_default=True, help="Workers, and tasks running and waiting.")
@click.option("--segments", default=300, show_default=True, help="Number of segments to run.")
@click.option("--fsync", type=click.Choice(["always", "everysec", "no"]), default="always", show_default=True)
@click.option(
    "--clients", default=1, show_default=True, help="Clients that do the same at a time; segments have one."
)
def main(size: int, segments: int, fsync: str, clients: int) -> None:
    """Print what each operation costs: Redis' time, commands (scripts' own too), bytes, memory, the client's wait."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="dain-") as name, running_redis(Path(name), fsync) as url:
        bench = Bench(Settings(state_dir=Path(name), redis_url=url), size)
        meter = Meter(bench.redis)
        for operation, call in bench.operations():
            meter.show(operation, lambda call=call: repeatedly(call, clients))  # type: ignore[misc]
        meter.show("a segment: queue, RQ, claim, completion", Segments(bench, segments).run)


if __name__ == "__main__":
    main()
