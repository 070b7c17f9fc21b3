"""The queue of tasks between the service and its workers. No other module imports RQ.

RQ carries names and nothing else. An entry wakes a worker, which takes the task whose turn it is (`Jobs.next_task`):
most often another one than the entry names. The name is for workers of earlier releases, which take that one.

RQ loses an entry when a worker is killed, and delivers one twice when two of its own clean-ups meet. Both are harmless
here: `service.jobs.machine` hands each task to one worker at a time, and `service.jobs.janitor` sees to it that there
are enough entries. RQ's own retries, time-outs, results and maintenance are therefore off.

RQ is pinned to a minor version, because this module uses what RQ does not promise to keep:

- `Queue.key`, `Queue.intermediate_queue_key`, and the `key` of `Queue.started_job_registry` and
  `Queue.failed_job_registry`: the keys of its lists in Redis;
- an entry of a registry is scored by when it expires; of the started registry it is `<RQ job id>:<execution id>`;
- `Job.key_for` names a job's hash, whose field `worker_name` is the worker that began it;
- of its worker, `perform_job`, `prepare_execution`, `maintain_heartbeats`, `set_state`, `birth_date`,
  `last_cleaned_at`, `run_maintenance_tasks`, `handle_warm_shutdown_request` and the flag `_stop_requested`;
- of its job, that `func` is what is called, and that `success_callback`, `failure_callback`, `stopped_callback` and
  `send_webhooks` are what is called afterwards;
- a worker blocks for `worker_ttl` less 15 s when it waits for a task.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import rq
from redis import Redis
from redis.exceptions import RedisError
from rq.serializers import JSONSerializer
from rq.utils import now

from service.jobs.workers import text

NAME = "dain"
# Functions go by name, because the service has no torch and cannot import them. The names never change: in an update
# workers and services of two releases share one queue.
TASKS = {
    "plan": "worker.tasks.plan",
    "assemble": "worker.tasks.assemble",
}
SEGMENT_TASK = "worker.tasks.segment"
# RQ's limit is a signal, which native code defers and `except Exception` swallows. A worker watches itself instead.
NO_TIME_LIMIT = -1
WORKER_TTL = 20  # seconds; an idle worker wakes every 5 s
FAILURE_TTL = 3600  # seconds that RQ keeps a function that raised; ours raise nothing


class Queue:
    """The queue of all tasks.

    There is one, because RQ pops from several queues with BLPOP, which loses the task of a worker that dies there.
    """

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
            failure_ttl=FAILURE_TTL,
        )

    def depth(self) -> int:
        """Tasks waiting."""
        return int(self._redis.llen(self.rq.key))

    def waiting(self) -> set[tuple[str, str]]:
        """Every waiting task as (job, task). What others put into the queue is passed over."""
        found = (_split_if_ours(text(raw)) for raw in self._redis.lrange(self.rq.key, 0, -1))
        return {task for task in found if task}

    def held(self) -> dict[str, str]:
        """What RQ took out of the queue and is not done with: the worker that runs an entry, by the entry's id.

        The worker is empty where none has begun. RQ counts as work in progress for ever what a dead worker held.
        """
        started = {
            text(raw).partition(":")[0] for raw in self._redis.zrange(self.rq.started_job_registry.key, 0, -1)
        }
        popped = {text(raw) for raw in self._redis.lrange(self.rq.intermediate_queue_key, 0, -1)}
        entries = sorted(entry for entry in started | popped if _split_if_ours(entry))
        with self._redis.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.hget(rq.job.Job.key_for(entry), "worker_name")
            return {entry: text(raw or b"") for entry, raw in zip(entries, pipe.execute(), strict=True)}

    def drop(self, entry: str) -> None:
        """Forget an entry that a dead worker held."""
        started = self.rq.started_job_registry.key
        for execution in map(text, self._redis.zrange(started, 0, -1)):
            if execution.startswith(f"{entry}:"):
                self._drop(started, execution)
        self._redis.lrem(self.rq.intermediate_queue_key, 0, entry)
        self._redis.delete(rq.job.Job.key_for(entry))

    def forget_expired(self, moment: float) -> None:
        """Drop what no worker has renewed so that it would outlast `moment`, in seconds since the epoch.

        Such is a task whose worker died after the job had ended. RQ would count it as work in progress for ever.
        """
        for registry in (self.rq.started_job_registry.key, self.rq.failed_job_registry.key):
            for execution in map(text, self._redis.zrangebyscore(registry, "-inf", moment)):
                self._drop(registry, execution)

    def _drop(self, registry: str, execution: str) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(registry, execution)
            pipe.delete(rq.job.Job.key_for(execution.partition(":")[0]))
            pipe.execute()


def split_id(delivery: str) -> tuple[str, str]:
    """The (job, task) of an RQ job id that `Queue.enqueue` made; ValueError for any other."""
    job_id, task, _ = delivery.split("_")
    return job_id, task


def _split_if_ours(delivery: str) -> tuple[str, str] | None:
    try:
        return split_id(delivery)
    except ValueError:
        return None


class Delivery(rq.job.Job):
    """A job of RQ that calls the worker's tasks and nothing else.

    RQ imports and calls what a job names: whoever can write to Redis could have a worker call any function.
    """

    @property
    def func(self) -> Callable[..., Any]:
        if self.func_name not in (*TASKS.values(), SEGMENT_TASK):
            raise ValueError(f"{self.func_name!r:.100} is no task of a worker")
        return super().func

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, *arguments: Any, **options: Any) -> None:
        """Send none: RQ's know nothing of `service.egress`."""


class WarmWorker(rq.SimpleWorker):
    """An RQ worker that runs tasks in its own process, where the model is warm. A fork cannot use CUDA.

    `SimpleWorker` sends no heartbeat during a task, so a thread has to call `beat`. SIGTERM calls `on_drain`, which
    lets the task in hand give itself back; then the loop ends.
    """

    def __init__(self, redis: Redis, name: str, on_drain: Callable[[], None]):
        super().__init__(
            [Queue(redis).rq],
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            job_class=Delivery,
            worker_ttl=WORKER_TTL,
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
            self._forget_if_dropped(job)
        self.set_state(rq.worker.WorkerStatus.IDLE)

    def _forget_if_dropped(self, job: rq.job.Job) -> None:
        """Remove what RQ wrote of an entry that was lost or dropped meanwhile: without a status it ends in no list."""
        with suppress(RedisError):  # then it is a few bytes
            if not self.connection.hexists(job.key, "status"):
                self.connection.delete(job.key)

    def beat(self) -> None:
        """Keep RQ's own records of this worker and its task alive."""
        with self._lock:
            if self._in_hand:
                self.maintain_heartbeats(*self._in_hand)
            elif self.birth_date:  # RQ takes a record from before its registration for another worker's
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
