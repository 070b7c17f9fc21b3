"""The queue of tasks between the service and its workers; the only module that speaks RQ.

RQ carries names and nothing else. It delivers at most once when a worker is killed, and twice when two of its
own clean-ups meet, so both are made harmless elsewhere: `service.jobs.machine` hands each task to one worker at a
time, and `service.jobs.janitor` delivers again what was lost. RQ's own retries, time-outs, results and maintenance
are therefore off.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any

import rq
from redis import Redis
from rq.serializers import JSONSerializer
from rq.utils import now

from service.jobs.workers import text

NAME = "dain"
TASKS = {
    "plan": "worker.work.plan",
    "assemble": "worker.work.assemble",
}  # by name: the service has no torch
SEGMENT_TASK = "worker.work.segment"
# RQ's limit is a signal, which native code defers and `except Exception` swallows; worker.telemetry watches instead.
NO_TIME_LIMIT = -1
MINIMUM_TTL = 20  # RQ blocks for its worker's time to live less 15 s, so this wakes an idle worker every 5 s


class Queue:
    """The one queue. One, because RQ pops from several with BLPOP, which loses the task if the worker dies there."""

    def __init__(self, redis: Redis):
        self._redis = redis
        self.rq = rq.Queue(NAME, connection=redis, serializer=JSONSerializer)

    def enqueue(self, job_id: str, task: str) -> None:
        """Offer a task to the workers. Offering one twice is harmless."""
        self.rq.enqueue_call(
            TASKS.get(task, SEGMENT_TASK),
            args=(job_id, task),
            job_id=f"{job_id}_{task}_{secrets.token_hex(4)}",
            timeout=NO_TIME_LIMIT,
            result_ttl=0,
            failure_ttl=3600,
        )

    def depth(self) -> int:
        """Tasks waiting."""
        return int(self._redis.llen(self.rq.key))

    def waiting(self) -> set[tuple[str, str]]:
        """Every waiting task as (job, task)."""
        return {split_id(text(raw)) for raw in self._redis.lrange(self.rq.key, 0, -1)}

    def forget(self, job_id: str, task: str) -> None:
        """Drop what RQ still holds of a task whose worker died: it would count as work in progress for ever."""
        started = self.rq.started_job_registry.key
        for execution in map(text, self._redis.zrange(started, 0, -1)):
            delivery = execution.partition(":")[0]
            if split_id(delivery) == (job_id, task):
                self._redis.zrem(started, execution)
                self._redis.delete(rq.job.Job.key_for(delivery))
        popped = self.rq.intermediate_queue_key
        for delivery in map(text, self._redis.lrange(popped, 0, -1)):
            if split_id(delivery) == (job_id, task):
                self._redis.lrem(popped, 0, delivery)


def split_id(delivery: str) -> tuple[str, str]:
    """(job, task) of an RQ job id."""
    job_id, task, _ = delivery.split("_")
    return job_id, task


class WarmWorker(rq.SimpleWorker):
    """An RQ worker that runs tasks in this very process, where the model is warm (a fork cannot use CUDA).

    SimpleWorker sends no heartbeat during a task: call `beat` from a thread. SIGTERM calls `on_drain`, so
    that the task in hand can give itself back; the loop then ends.
    """

    def __init__(self, redis: Redis, name: str, on_drain: Callable[[], None]):
        super().__init__(
            [Queue(redis).rq], name=name, connection=redis, serializer=JSONSerializer, worker_ttl=MINIMUM_TTL
        )
        self._on_drain = on_drain
        self._in_hand: tuple[rq.job.Job, Any] | None = None
        self._lock = threading.Lock()

    def execute_job(self, job: rq.job.Job, queue: rq.Queue) -> None:
        execution = self.prepare_execution(job)
        with self._lock:
            self._in_hand = job, execution
        try:
            self.perform_job(job, queue, execution)
        finally:
            with self._lock:
                self._in_hand = None
        self.set_state(rq.worker.WorkerStatus.IDLE)

    def beat(self) -> None:
        """Keep RQ's own records of this worker and its task alive."""
        with self._lock:
            if self._in_hand:
                self.maintain_heartbeats(*self._in_hand)
            elif self.birth_date:  # a record from before it registers RQ takes for another worker's
                self.heartbeat()

    def stop_after_task(self) -> None:
        """Leave the loop once the task in hand has returned."""
        self._stop_requested = True

    def handle_warm_shutdown_request(self) -> None:
        self._on_drain()

    def run_maintenance_tasks(self) -> None:
        self.last_cleaned_at = now()  # type: ignore[assignment]  # the janitor is the one sweeper

    def run(self) -> None:
        """Work until told to stop."""
        self.work(logging_level=logging.getLevelName(logging.getLogger("rq.worker").getEffectiveLevel()))
