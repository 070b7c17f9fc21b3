"""Runs a thousand workers on one Redis, without a GPU: `python -m worker.bench.fleet`.

Everything but the network and the files is the service's own: a redis-server, `service.jobs`, RQ's loop, the janitor,
and `worker.main.run` with its heartbeats, attempts and relay, once a thread instead of once a process. Tasks only wait.
Jobs arrive evenly, at a rate that keeps a part of the fleet at work. Latencies are those of Python threads that share a
few cores, so they are upper bounds. The processor time of Redis is read from Redis.

`--faults` kills a part of the workers at once and replaces them. It also stops another part until others have got all
the tasks that this part had in hand, and lets it go on then. In the end every frame of every job must have been counted
exactly once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial, wraps
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError
from redis.retry import Retry

from service.jobs.janitor import INTERVAL, Janitor
from service.jobs.machine import Jobs
from service.jobs.names import ASSEMBLE, PLAN, new_job_id, segment_name
from service.jobs.options import Options
from service.jobs.queue import Queue, WarmWorker
from service.jobs.records import Output, State
from service.jobs.workers import Workers
from service.settings import Settings
from service.up import redis_server
from worker import attempt as attempt_module
from worker import main as worker_main
from worker import work as tasks
from worker.attempt import Attempt, Runtime
from worker.pipeline import SegmentStats

FRAMES = 96  # of a segment, as DAIN_SEGMENT_FRAMES has it
SEGMENTS = 16  # of a job
TICKS = 16  # times that a segment's work looks whether it is to stop

Latencies = dict[str, list[float]]


@dataclass(frozen=True)
class Fleet:
    """What is simulated."""

    workers: int
    processes: int
    load: float  # share of the workers that the jobs keep at work
    seconds: float  # during which jobs arrive
    segment_seconds: float
    report_seconds: float  # between two reports of one task's progress

    @property
    def jobs(self) -> int:
        work = SEGMENTS * self.segment_seconds
        return max(1, round(self.load * self.workers * self.seconds / work))


# -- workers, in processes of their own -------------------------------------------------------------


class NoNetwork:
    """In the place of the models and of each of them."""

    device, backend, model_name, precision = torch.device("cpu"), "none", "none", "none"
    names = ("none",)

    @property
    def default(self) -> NoNetwork:
        return self

    def warm_up(self) -> None:
        pass


class RuntimeOfThread(threading.local):
    """In the place of `tasks._runtime`: a worker for each thread."""

    runtime: Runtime

    def __iter__(self) -> Iterator[Runtime]:
        yield self.runtime

    def __setitem__(self, index: slice, runtimes: list[Runtime]) -> None:
        [self.runtime] = runtimes


def timed(latencies: Latencies, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, with the seconds it takes added to `latencies` under its name."""

    @wraps(call)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            latencies[call.__name__].append(time.perf_counter() - begun)

    return wrapper


def crew(fleet: Fleet, settings: Settings, parent: Connection) -> None:
    """A process' share of the workers; sends their latencies when `parent` says that it is over."""
    logging.disable(logging.ERROR)
    sys.setswitchinterval(0.05)  # hundreds of threads asking for the interpreter every 5 ms would get nowhere
    latencies: Latencies = defaultdict(list)
    for owner, name in ((Jobs, "claim"), (Jobs, "report"), (Jobs, "complete"), (Workers, "heartbeat")):
        setattr(owner, name, timed(latencies, getattr(owner, name)))
    replace: Callable[..., None] = partial(setattr, tasks)
    replace("_runtime", RuntimeOfThread())
    replace("_plan", plan)
    replace("_segment", partial(segment, fleet))
    replace("_assemble", assemble)
    attempt_module.REPORT_SECONDS = fleet.report_seconds
    setattr(worker_main, "load", lambda settings: NoNetwork())  # noqa: B010  # a function, to mypy
    setattr(worker_main, "signal", SimpleNamespace(signal=lambda *_: None, SIGTERM=None))  # noqa: B010  # main threads
    setattr(WarmWorker, "_install_signal_handlers", lambda worker: None)  # noqa: B010  # main threads only
    # The service has RQ's time limit off, and only a main thread could have it.
    setattr(WarmWorker, "death_penalty_class", staticmethod(lambda *_, **__: nullcontext()))  # noqa: B010
    for _ in range(fleet.workers // fleet.processes):
        threading.Thread(target=worker_main.run, args=[settings], daemon=True).start()
    try:
        parent.recv()
    except EOFError:  # the parent was killed; threads of the workers would keep this process alive
        os._exit(1)
    parent.send(dict(latencies))


def plan(attempt: Attempt) -> None:
    attempt.complete(job={"segments_total": SEGMENTS, "frames_total": SEGMENTS * FRAMES})


def segment(fleet: Fleet, attempt: Attempt) -> None:
    with attempt.turn():
        for _ in range(TICKS):
            time.sleep(fleet.segment_seconds / TICKS)
            attempt.check()
            attempt.advance(FRAMES // TICKS)
            attempt.leg.advance(attempt.frames, FRAMES)
    claim = attempt.claim
    stats = SegmentStats(
        frames=FRAMES,
        new_frames=FRAMES // 2,
        scene_cuts=1,
        seconds_decode=1.0,
        seconds_inference=fleet.segment_seconds,
        seconds_encode=1.0,
        vram_peak_bytes=2**32,
    )
    key = f"segments/{claim.job_id}/{claim.task}.{claim.token}.mp4"
    attempt.complete(task={"key": key}, add=stats.sums())


def assemble(attempt: Attempt) -> None:
    job = attempt.job
    output = Output(
        key=f"results/{job.id}/{attempt.claim.token}.mp4",
        filename="clip-2x.mp4",
        media_type="video/mp4",
        size_bytes=1,
        sha256="0" * 64,
        frames=FRAMES,
        frame_rate="48",
        duration_seconds=2.0,
    )
    attempt.succeed(output)


# -- the rest of the service, in this process -------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """What Redis says of itself at one moment."""

    at: float
    in_hand: int
    waiting: int
    commands: int
    cpu: float
    clients: int
    received: int
    sent: int
    memory: int

    @classmethod
    def take(cls, redis: Redis, queue: Queue) -> Sample:
        info = redis.info("all")
        return cls(
            at=time.monotonic(),
            in_hand=redis.zcard(queue.rq.started_job_registry.key),
            waiting=queue.depth(),
            commands=info["total_commands_processed"],
            cpu=info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            clients=info["connected_clients"],
            received=info["total_net_input_bytes"],
            sent=info["total_net_output_bytes"],
            memory=info["used_memory"],
        )


@dataclass
class Simulation:
    """One run."""

    fleet: Fleet
    settings: Settings
    idle_seconds: float
    faults: bool
    ids: list[str] = field(default_factory=list)  # of the jobs
    latencies: Latencies = field(default_factory=lambda: defaultdict(list))
    crews: list[tuple[BaseProcess, Connection]] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    repeated: int = 0  # attempts beyond the first at a task

    def __post_init__(self) -> None:
        self.redis = Redis.from_url(self.settings.require_redis_url)
        self.jobs = Jobs.from_settings(self.redis, self.settings)
        forget = self.jobs.cleaned

        def look_back_and_forget(job_id: str) -> None:
            self._look_back(job_id)
            forget(job_id)

        setattr(self.jobs, "cleaned", look_back_and_forget)  # noqa: B010  # a method, to mypy
        self.queue = Queue(self.redis)
        self.workers = Workers(self.redis, ttl_seconds=self.settings.worker_ttl_seconds)

    def run(self) -> list[str]:
        """What went wrong, in the end."""
        threading.Thread(target=self._sweep, daemon=True).start()
        for _ in range(self.fleet.processes):
            self._hire()
        self._until_ready(self.fleet.workers)
        self._watch("idle", lambda elapsed: elapsed > self.idle_seconds)
        submission = threading.Thread(target=self._submit_all, daemon=True)
        submission.start()
        if self.faults:
            threading.Thread(target=self._do_harm, daemon=True).start()
        self._watch("filling", lambda elapsed: elapsed > 2 * self.fleet.segment_seconds)
        self._watch("working", lambda _: not submission.is_alive())
        self._watch("finishing", lambda _: self._ended() == self.fleet.jobs and not self.jobs.unclean())
        self._dismiss()
        return self._audit()

    def _hire(self) -> BaseProcess:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=crew, args=(self.fleet, self.settings, there), daemon=True)
        process.start()
        self.crews.append((process, here))
        return process

    def _until_ready(self, count: int) -> None:
        while (ready := sum(worker.ready for worker in self.workers.all())) < count:
            click.echo(f"{ready} workers are ready", err=True)
            time.sleep(1)

    def _submit_all(self) -> None:
        facts = {"width": 1920, "height": 1080, "frames": FRAMES // 2 * SEGMENTS}
        first = time.monotonic()
        for number in range(self.fleet.jobs):
            time.sleep(max(0.0, first + number * self.fleet.seconds / self.fleet.jobs - time.monotonic()))
            begun = time.perf_counter()
            job = new_job_id()
            self.jobs.create(
                job, source=f"uploads/{job}", filename="clip.mp4", options=Options(), input=facts
            )
            self.queue.enqueue(job, PLAN)
            self.ids.append(job)
            self.latencies["submit"].append(time.perf_counter() - begun)

    def _watch(self, name: str, over: Callable[[float], bool]) -> None:
        """A sample a second until `over`, and between them pings as a lone client sees them."""
        samples, begun = [Sample.take(self.redis, self.queue)], time.monotonic()
        self.samples[name] = samples
        while not over(time.monotonic() - begun):
            if time.monotonic() - begun > 60 + 3 * self.fleet.seconds:
                raise click.ClickException("This machine is too slow for so many workers at work.")
            for _ in range(10):
                time.sleep(0.1)
                sent = time.perf_counter()
                self.redis.ping()
                self.latencies["ping"].append(time.perf_counter() - sent)
            samples.append(Sample.take(self.redis, self.queue))
            in_hand, waiting = samples[-1].in_hand, samples[-1].waiting
            click.echo(
                f"{name}: {in_hand} tasks in hand, {waiting} wait, {self._ended()} jobs ended", err=True
            )

    def _ended(self) -> int:
        return sum(count for state, count in self.jobs.counts().items() if State(state).terminal)

    def _sweep(self) -> None:
        store = self.settings.open_store()
        janitor = Janitor(self.jobs, self.queue, self.workers, store, record_ttl_seconds=86400)
        while True:
            begun = time.perf_counter()
            janitor.redeliver()
            janitor.tidy()
            self.latencies["sweep"].append(time.perf_counter() - begun)
            time.sleep(INTERVAL)

    def _do_harm(self) -> None:
        """Kill one crew, so that its workers vanish at once; stop another until others have its tasks."""
        (victim, _), (sleeper, _), *_ = self.crews
        time.sleep(self.fleet.seconds / 3)
        victim.kill()
        del self.crews[0]
        self._hire()
        time.sleep(self.fleet.segment_seconds / 5)
        os.kill(sleeper.pid or 0, signal.SIGSTOP)
        names = {worker.name for worker in self.workers.all() if worker.pid == sleeper.pid}
        held = [(job, task) for job, task, fields in self.jobs.live_tasks() if fields.get("worker") in names]
        while any(self.jobs.task_fields(job, [task], "worker")[0] in names for job, task in held):
            time.sleep(0.5)
        click.echo(f"{len(held)} tasks of stopped workers are in other hands; they wake up", err=True)
        os.kill(sleeper.pid or 0, signal.SIGCONT)

    def _dismiss(self) -> None:
        """Gather what the crews measured, and end them."""
        for process, connection in self.crews:
            connection.send("over")
            for name, seconds in connection.recv().items():
                self.latencies[name] += seconds
            process.kill()

    def _audit(self) -> list[str]:
        wrong = []
        for job in map(self.jobs.get, self.ids):
            if job.status is not State.SUCCEEDED:
                wrong.append(f"job {job.id} has {job.status.value}: {job.error}")
            elif job.progress.frames_done != SEGMENTS * FRAMES:
                wrong.append(f"job {job.id} counts {job.progress.frames_done} frames")
        counted, expected = self.jobs.counters()["frames"], SEGMENTS * FRAMES * len(self.ids)
        if counted != expected:
            wrong.append(f"the service counts {counted} frames instead of {expected}")
        return wrong

    def _look_back(self, job_id: str) -> None:
        """Count a job's attempts, and how long its tasks waited from being queued to being begun."""
        names = [PLAN, ASSEMBLE, *map(segment_name, range(SEGMENTS))]
        fields = (
            self.jobs.task_fields(job_id, names, name) for name in ("attempts", "queued_at", "started_at")
        )
        for attempts, queued, started in zip(*fields, strict=True):
            self.repeated += int(attempts or 0) - 1
            self.latencies["start"].append(float(started or "nan") - float(queued or "nan"))

    # -- what is printed --------------------------------------------------------------------------

    def describe(self) -> Iterator[str]:
        for name in ("idle", "working"):
            yield self._describe_rates(name, self.samples[name])
        for name, seconds in sorted(self.latencies.items()):
            ordered = sorted(seconds)
            middle, late = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
            yield f"{name:10} {len(ordered):8} calls   p50 {middle * 1e3:8.2f} ms   p99 {late * 1e3:8.2f} ms"
        yield f"{self.repeated} attempts beyond the first"

    def _describe_rates(self, name: str, samples: list[Sample]) -> str:
        first, last = samples[0], samples[-1]
        seconds, each = last.at - first.at, self.fleet.workers
        commands, cpu = (last.commands - first.commands) / seconds, (last.cpu - first.cpu) / seconds
        mbit = (last.received - first.received + last.sent - first.sent) * 8e-6 / seconds
        in_hand, waiting = (
            statistics.mean(values) for values in zip(*((s.in_hand, s.waiting) for s in samples), strict=True)
        )
        return (
            f"{name} for {seconds:.0f} s: {in_hand:.0f} tasks in hand, {waiting:.0f} waiting, "
            f"{commands:.0f} commands/s, {cpu:.1%} of a core, {mbit:.1f} Mbit/s, "
            f"{last.clients} connections, {last.memory / 2**20:.0f} MiB; "
            f"a worker: {commands / each:.2f} commands/s, {cpu / each * 1e6:.0f} us/s, "
            f"{last.clients / each:.2f} connections"
        )


@contextmanager
def running_redis(folder: Path, fsync: str) -> Iterator[str]:
    """URL of a Redis with an append-only file, as the service wants it."""
    socket = folder / "redis.sock"
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": fsync,
        "maxclients": "20000",
        "maxmemory-policy": "noeviction",
    }
    command = [redis_server(), *(word for name, value in options.items() for word in (f"--{name}", value))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        until_up = Retry(ConstantBackoff(0.05), 400, (ConnectionError, BusyLoadingError))
        try:
            with Redis(unix_socket_path=str(socket), retry=until_up) as connection:
                connection.ping()
            yield f"unix://{socket}"
        finally:
            server.terminate()


@click.command()
@click.option("--workers", default=1000, show_default=True)
@click.option("--processes", default=4, show_default=True, help="Processes that the workers are spread over.")
@click.option("--load", default=0.7, show_default=True, help="Share of the workers that are kept at work.")
@click.option("--seconds", default=180.0, show_default=True, help="How long jobs arrive.")
@click.option("--segment-seconds", default=20.0, show_default=True, help="How long one segment takes.")
@click.option(
    "--report-seconds",
    default=attempt_module.REPORT_SECONDS,
    show_default=True,
    help="Between progress reports.",
)
@click.option("--fsync", type=click.Choice(["always", "everysec", "no"]), default="always", show_default=True)
@click.option("--worker-ttl", default=15, show_default=True, help="DAIN_WORKER_TTL_SECONDS.")
@click.option("--idle-seconds", default=10.0, show_default=True, help="How long the idle fleet is watched.")
@click.option("--faults", is_flag=True, help="Kill a part of the workers, and stop another for a while.")
def main(fsync: str, worker_ttl: int, idle_seconds: float, faults: bool, **shape: Any) -> None:
    """Run a fleet of workers that only wait, and say what it asks of Redis."""
    fleet = Fleet(**shape)
    if fleet.workers % fleet.processes:
        raise click.UsageError("Choose a number of workers that the processes can share evenly.")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="dain-") as name, running_redis(Path(name), fsync) as url:
        settings = Settings(state_dir=Path(name), redis_url=url, worker_ttl_seconds=worker_ttl, threads=1)
        simulation = Simulation(fleet, settings, idle_seconds, faults)
        wrong = simulation.run()
        for line in (*simulation.describe(), *wrong):
            print(line)
    outcome = "WRONG" if wrong else "none lost, none doubled"
    print(f"{fleet.jobs} jobs of {SEGMENTS} segments: {outcome}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
