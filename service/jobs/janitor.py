"""The janitor delivers lost tasks again, expires results and keeps the store clean.

Run it as `python -m service.jobs.janitor`. Any number may run: a lock in Redis lets one sweep at a time, and sweeping
twice is harmless. A store that is slow or away delays no delivery, since two threads sweep. The janitor judges by the
records of `service.jobs.machine` and `service.jobs.workers`, never by RQ's statuses.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from redis import Redis
from redis.exceptions import LockNotOwnedError, RedisError

from service.jobs.incoming import incoming_key, is_expired
from service.jobs.machine import Jobs
from service.jobs.names import created_at, is_job_id
from service.jobs.problems import Problem
from service.jobs.queue import Queue
from service.jobs.records import TERMINAL, State
from service.jobs.workers import WorkerRecord, Workers
from service.logs import get_logger, log_to_stderr
from service.settings import Settings, read_settings
from service.store import KINDS, WORKING_KINDS, Store, StoreUnavailable, nothing

log = get_logger("dain.janitor")

INTERVAL = 2.0  # seconds between sweeps, or more where workers report seldom
LOCK_SECONDS = 10.0  # a janitor that is killed in a sweep delays the next sweep by so much
STOP_SECONDS = 10.0  # for a store that is slow, at the end
REDIS_SECONDS = 5.0  # time for Redis to answer one command
# Seconds that a task may be in no queue, or running and on no worker's list: longer than any worker needs from pop to
# claim, or from one heartbeat to the next.
LOST_AFTER = 10.0
# Heartbeats in which the living report again when nobody looked for a while: in an outage of Redis all records expire.
GRACE_HEARTBEATS = 2
SCRATCH_AGE = 60.0  # seconds: a new folder has no lock yet
ORPHAN_AGE = 3600.0  # seconds after which a file of no job is removed
PARTS_AGE = 86400.0  # seconds after which a file that is being sent to the store counts as given up
ORPHAN_INTERVAL = (
    600.0  # seconds between two looks for such files, and at all sizes: each looks at every file
)
FORGOTTEN_AFTER = 2 * ORPHAN_INTERVAL  # seconds that a fault is not met, after which it counts as a new one
MODEL_IS_MISSING = (
    "job %s waits: no living worker serves its model %s. Start one that does, or cancel the job"
)


class Janitor:
    """Sweeps one service; call `redeliver` and `tidy` every `interval` seconds, in one thread or two.

    A fault of the store is logged and ends no sweep: what could not be removed is tried again by the next.
    """

    def __init__(
        self, jobs: Jobs, queue: Queue, workers: Workers, store: Store, *, record_ttl_seconds: float
    ):
        self._jobs = jobs
        self._queue = queue
        self._workers = workers
        self._store = store
        self._record_ttl = record_ttl_seconds
        self.interval = max(INTERVAL, workers.heartbeat_seconds * 2 / 3)
        self._suspects: dict[tuple[str, ...], float] = {}  # tasks that seem lost, and since when
        self._looked_at = -math.inf
        self._grace_ends = 0.0
        self._next_look_for_orphans = 0.0
        self._met: dict[str, float] = {}  # what was said, and when it was met last

    def tidy(self) -> None:
        """Remove once what is over, from the records and from the store; raises RedisError."""
        self._jobs.index_owners()
        self.expire()
        self.clean_up()
        if time.monotonic() >= self._next_look_for_orphans:
            self.remove_orphans()
            self.remove_parts()
            self.remove_incoming()
            self.measure()
            self._next_look_for_orphans = time.monotonic() + ORPHAN_INTERVAL

    def start_over(self) -> None:
        """Forget every suspicion, and let the living report again, as after an outage of Redis."""
        self._suspects = {}
        self._grace_ends = time.monotonic() + GRACE_HEARTBEATS * self._workers.heartbeat_seconds

    def redeliver(self) -> None:
        """Queue again each task whose worker died or dropped it, or that is queued and yet in no queue."""
        live = self._jobs.live_tasks()
        missed = self._missed(
            {(job_id, task) for job_id, task, fields in live if fields["state"] == "queued"}
        )
        workers = {worker.name: worker for worker in self._workers.all()}
        suspects: dict[tuple[str, ...], float] = {}
        now = time.monotonic()
        if now - self._looked_at > self.interval + self._workers.heartbeat_seconds:
            self.start_over()
        self._looked_at = now

        def seen_for(seconds: float, *suspect: str) -> bool:
            """Whether the suspicion has stood for so long. It is kept until it has."""
            since = self._suspects.get(suspect, now)
            if now - since < seconds:
                suspects[suspect] = since
            return suspect not in suspects

        for job_id, task, fields in live:
            if fields["state"] == "running":
                worker = workers.get(fields["worker"])
                if worker and _has(worker, job_id, task):
                    continue
                if not worker and now < self._grace_ends:
                    continue
                fault, patience = ("no longer has", LOST_AFTER) if worker else ("died in", 0.0)
            elif (job_id, task) in missed:
                model = fields.get("needs_model")
                if model and not any(worker.may_serve(model) for worker in workers.values()):
                    self._say_once(f"{job_id} {model}", MODEL_IS_MISSING, job_id, model)
                    continue
                # The time to the next sweep keeps a task from going round among workers that lack its model.
                fault, patience = "in no queue", 0.0 if model else LOST_AFTER
            else:
                continue
            if not seen_for(patience, job_id, task, fields.get("token", ""), fault):
                continue
            if fields["state"] == "running":
                self._requeue_lost(job_id, task, fields, fault)
            else:
                level = logging.INFO if fields.get("needs_model") else logging.WARNING
                log.log(level, "task delivered again", job=job_id, task=task, reason="it was in no queue")
                self._deliver(job_id, task)
        for entry, name in self._queue.held().items():
            if name not in workers and seen_for(LOST_AFTER, "entry", entry):
                self._queue.drop(entry)
        self._suspects = suspects

    def _missed(self, queued: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the queued tasks that no worker will come to: they are in no line, or the queue has too few entries.

        An entry makes a worker take the task whose turn it is, not the one that the entry names.
        """
        in_line, named = queued & self._jobs.in_line(), self._queue.waiting()
        missing = max(len(in_line) - self._queue.depth(), 0)
        return (queued - in_line) | set(sorted(in_line - named)[:missing])

    def _requeue_lost(self, job_id: str, task: str, fields: dict[str, str], fault: str) -> None:
        outcome = self._jobs.requeue_lost(job_id, task, fields["token"])
        log.warning(
            "task lost", job=job_id, task=task, worker=f"{fields['worker']} {fault} it", outcome=outcome
        )
        if outcome == "requeued":
            self._deliver(job_id, task)
        elif outcome == "exhausted":
            self._jobs.finish(
                job_id, State.FAILED, error=Problem.attempts_exhausted(task, int(fields["attempts"]))
            )

    def _deliver(self, job_id: str, task: str) -> None:
        self._jobs.offer(job_id, task)
        self._queue.enqueue(job_id, task)

    def expire(self) -> None:
        """Remove results past their time, and after a longer time the jobs' records."""
        now = time.time()
        for job_id in self._jobs.results_expired_by(now):
            if self._remove(f"results/{job_id}/") and self._jobs.mark_expired(job_id):
                log.info("result expired", job=job_id)
        for job_id in self._jobs.finished_before(now - self._record_ttl):
            if self._remove(f"results/{job_id}/"):
                self._jobs.delete(job_id)

    def clean_up(self) -> None:
        """Remove the upload, plan and segments of jobs that are over, and what dead processes left in scratch."""
        for job_id in self._jobs.unclean():
            if self._remove(*(f"{kind}/{job_id}" for kind in WORKING_KINDS)):
                self._jobs.cleaned(job_id)
        self._queue.forget_expired(time.time())
        try:
            self._store.sweep_scratch(SCRATCH_AGE)
        except OSError as error:
            self._say_fault("the store's scratch folder cannot be swept", error)

    def remove_orphans(self) -> None:
        """Remove working files whose job was never recorded, and late ones of jobs that are over.

        Results are not looked at: they are many, and go with their job's record.
        """
        for kind in WORKING_KINDS:
            try:
                names = {key.split("/")[1].removesuffix(".json") for key in self._store.keys(f"{kind}/")}
            except OSError as error:
                self._say_fault(f"{kind} in the store cannot be listed", error)
                continue
            for job_id in sorted(names):
                if not is_job_id(job_id):
                    self._say_once(
                        f"{kind}/{job_id}", "%s/%s in the store is no job's; left alone", kind, job_id
                    )
                elif self._needs_no_files(job_id):
                    self._remove(f"{kind}/{job_id}")

    def remove_incoming(self) -> None:
        """Remove the uploads that came before a job was made of them, once no job may be made of them any more."""
        try:
            ids = {key.split("/")[1] for key in self._store.keys("incoming/")}
        except OSError as error:
            self._say_fault("incoming in the store cannot be listed", error)
            return
        for upload_id in filter(is_job_id, ids):
            if is_expired(upload_id):
                self._remove(incoming_key(upload_id))

    def measure(self) -> None:
        """Record how many bytes of each kind the store has, for whoever watches the service."""
        try:
            self._jobs.record_stored({kind: self._store.bytes_under(f"{kind}/") for kind in KINDS})
        except OSError as error:
            self._say_fault("files in the store cannot be counted", error)

    def remove_parts(self) -> None:
        """Remove the parts of files that nobody goes on sending to the store."""
        try:
            if swept := self._store.sweep_parts(PARTS_AGE):
                log.info("parts removed of files that were never whole", files=swept)
        except OSError as error:
            self._say_fault("parts of files in the store cannot be removed", error)

    def _needs_no_files(self, job_id: str) -> bool:
        state = self._jobs.state(job_id)
        return state in TERMINAL if state else time.time() - created_at(job_id) > ORPHAN_AGE

    def _remove(self, *prefixes: str) -> bool:
        """Remove what is stored under each of `prefixes`; False where the store refuses."""
        for prefix in prefixes:
            try:
                self._store.delete(prefix)
            except OSError as error:
                self._say_fault(f"{prefix} cannot be removed from the store", error)
                return False
        return True

    def _say_fault(self, what: str, error: OSError) -> None:
        """Says what the store does not do. Of a store that is away it is said once, not of each thing asked of it."""
        about = str(error) if isinstance(error, StoreUnavailable) else what
        self._say_once(about, "%s: %s", what, error)

    def _say_once(self, about: str, message: str, *arguments: object) -> None:
        """Says what lasts once, and what comes back after a while again."""
        now = time.monotonic()
        if now - self._met.get(about, -math.inf) > FORGOTTEN_AFTER:
            log.error(message, *arguments)
        self._met[about] = now


def _has(worker: WorkerRecord, job_id: str, task: str) -> bool:
    """Whether the worker lists the task, or is of a version that lists none."""
    return worker.tasks is None or any((had.job, had.task) == (job_id, task) for had in worker.tasks)


def main() -> None:
    """Sweep until SIGTERM or SIGINT."""
    settings = read_settings()
    log_to_stderr(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sweep(settings, stop)


def sweep(settings: Settings, stop: threading.Event) -> None:
    """Sweep the service of these settings until `stop` is set, which an error that is not Redis' does, too."""
    redis = Redis.from_url(settings.require_redis_url, socket_timeout=REDIS_SECONDS)
    jobs, store = Jobs.from_settings(redis, settings), settings.require_store()
    workers = Workers(redis, ttl_seconds=settings.worker_ttl_seconds)
    janitor = Janitor(jobs, Queue(redis), workers, store, record_ttl_seconds=settings.record_ttl_seconds)
    interval = janitor.interval
    log.info("janitor begins", store=settings.store_url, sweep_seconds=interval)
    tidying = threading.Thread(
        target=_repeat, args=(redis, "dain:janitor:tidy", interval, janitor.tidy, stop), daemon=True
    )
    tidying.start()
    _repeat(redis, "dain:janitor", interval, janitor.redeliver, stop, janitor.start_over)
    tidying.join(STOP_SECONDS)


def _repeat(
    redis: Redis,
    name: str,
    interval: float,
    sweep: Callable[[], None],
    stop: threading.Event,
    after_outage: Callable[[], None] = nothing,
) -> None:
    """Sweep where no other janitor does, until `stop` is set. An error that is not Redis' sets it, too."""
    lock = redis.lock(name, timeout=LOCK_SECONDS, blocking=False)
    try:
        while not stop.wait(interval):
            try:
                if lock.acquire():
                    try:
                        sweep()
                    finally:
                        with suppress(LockNotOwnedError):  # the sweep outlasted it
                            lock.release()
            except RedisError as error:
                log.warning("Redis does not answer", error=str(error), next_sweep_seconds=interval)
                after_outage()
    finally:
        stop.set()


if __name__ == "__main__":
    main()
