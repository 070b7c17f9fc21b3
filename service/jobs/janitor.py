"""The one sweeper: delivers lost tasks again, expires results, keeps the disk clean.

Run as `python -m service.jobs.janitor`. Any number may run; a lock in Redis lets one sweep at a time, and sweeping
twice is harmless. It judges by the records of `service.jobs.machine` and by whether a worker's own record is alive,
never by RQ's statuses.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import suppress

from redis import Redis
from redis.exceptions import LockNotOwnedError, RedisError

from service.jobs.machine import Jobs, created_at
from service.jobs.problems import Problem
from service.jobs.queue import Queue
from service.jobs.records import State
from service.jobs.workers import WorkerRecord, Workers
from service.settings import read_settings
from service.store import Store, open_store

log = logging.getLogger("dain.janitor")

INTERVAL = 2.0  # seconds between sweeps
LOCK_SECONDS = 10.0  # by so much a janitor that is killed in a sweep delays the next
# Seconds a task may be in no queue, or running and on no worker's list: longer than any worker needs from pop to
# claim, or from one heartbeat to the next.
LOST_AFTER = 10.0
SCRATCH_AGE = 60.0  # seconds: a new folder has no lock yet
ORPHAN_AGE = 3600.0  # seconds after which a file that nobody claims is nobody's


class Janitor:
    """Sweeps one service; call `sweep` every `INTERVAL` seconds."""

    def __init__(
        self, jobs: Jobs, queue: Queue, workers: Workers, store: Store, *, record_ttl_seconds: float
    ):
        self._jobs = jobs
        self._queue = queue
        self._workers = workers
        self._store = store
        self._record_ttl = record_ttl_seconds
        self._missing_since: dict[tuple[str, ...], float] = {}

    def sweep(self) -> None:
        self.redeliver()
        self.clean_up()
        self.expire()

    def redeliver(self) -> None:
        """Queue again each task whose worker died or dropped it, or that is queued and yet in no queue."""
        waiting = self._queue.waiting()
        live = self._jobs.live_tasks()
        workers = {worker.name: worker for worker in self._workers.all()}
        missing: dict[tuple[str, ...], float] = {}

        def is_missing_for_long(*key: str) -> bool:
            missing[key] = self._missing_since.get(key, time.monotonic())
            return time.monotonic() - missing[key] > LOST_AFTER

        for job_id, task, fields in live:
            if fields["state"] == "running":
                worker = workers.get(fields["worker"])
                if worker is None:
                    self._requeue_lost(job_id, task, fields, "died in")
                elif not _has(worker, job_id, task) and is_missing_for_long(job_id, task, fields["token"]):
                    self._requeue_lost(job_id, task, fields, "no longer has")
            elif (job_id, task) not in waiting and is_missing_for_long(job_id, task):
                log.warning("task %s of job %s was in no queue; delivered again", task, job_id)
                self._deliver(job_id, task)
                del missing[job_id, task]
        self._missing_since = missing

    def _requeue_lost(self, job_id: str, task: str, fields: dict[str, str], how: str) -> None:
        outcome = self._jobs.requeue_lost(job_id, task, fields["token"])
        log.warning("worker %s %s task %s of job %s: %s", fields["worker"], how, task, job_id, outcome)
        if outcome == "requeued":
            self._deliver(job_id, task)
        elif outcome == "exhausted":
            self._queue.forget(job_id, task)
            self._jobs.finish(
                job_id, State.FAILED, error=Problem.attempts_exhausted(task, int(fields["attempts"]))
            )

    def _deliver(self, job_id: str, task: str) -> None:
        self._queue.forget(job_id, task)
        self._queue.enqueue(job_id, task)

    def clean_up(self) -> None:
        """Remove the upload, plan and segments of jobs that are over."""
        for job_id in self._jobs.unclean():
            for prefix in ("uploads", "plans", "segments"):
                self._store.delete(f"{prefix}/{job_id}")
            self._jobs.cleaned(job_id)
        self._store.sweep_scratch(SCRATCH_AGE)
        for key in self._store.keys("uploads/"):  # put, and then its API died before it was recorded
            job_id = key.removeprefix("uploads/")
            if time.time() - created_at(job_id) > ORPHAN_AGE and not self._jobs.known(job_id):
                self._store.delete(key)

    def expire(self) -> None:
        """Remove results past their time, and after a longer time the jobs' records."""
        now = time.time()
        for job_id in self._jobs.results_expired_by(now):
            log.info("result of job %s expired", job_id)
            self._store.delete(f"results/{job_id}/")
            self._jobs.mark_expired(job_id)
        for job_id in self._jobs.finished_before(now - self._record_ttl):
            self._store.delete(f"results/{job_id}/")
            self._jobs.delete(job_id)


def _has(worker: WorkerRecord, job_id: str, task: str) -> bool:
    """Whether the worker lists the task, or is of a version that lists none."""
    return worker.tasks is None or any((had.job, had.task) == (job_id, task) for had in worker.tasks)


def main() -> None:
    """Sweep until SIGTERM or SIGINT."""
    settings = read_settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    redis = Redis.from_url(settings.require_redis_url)
    jobs, store = Jobs.from_settings(redis, settings), open_store(settings.store_url)
    workers = Workers(redis, ttl_seconds=settings.worker_ttl_seconds)
    janitor = Janitor(jobs, Queue(redis), workers, store, record_ttl_seconds=settings.record_ttl_seconds)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    lock = redis.lock("dain:janitor", timeout=LOCK_SECONDS, blocking=False)
    wait = INTERVAL
    while not stop.wait(wait):
        try:
            if lock.acquire():
                try:
                    janitor.sweep()
                finally:
                    with suppress(LockNotOwnedError):  # the sweep outlasted it
                        lock.release()
            wait = INTERVAL
        except RedisError as error:
            # After an outage every worker's record has expired; give the living time to report before judging
            # them dead.
            log.warning("Redis: %s; sweeping again in %.0f s", error, settings.worker_ttl_seconds)
            wait = settings.worker_ttl_seconds


if __name__ == "__main__":
    main()
