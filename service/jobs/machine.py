"""The job record and its state machine, in Redis.

A job is cut into tasks: `plan`, then `segment-0` … `segment-n`, then `assemble`. The tasks' own records here
are the truth about what has been done; the queue only carries their names and may lose or repeat them.

    job    queued ──▶ running ──▶ succeeded | failed | cancelled        the first terminal state wins
    task   queued ──▶ running ──▶ done                                  running ──▶ queued when an attempt ends early

Every change that depends on the present state is one Lua script, so that two processes can never both make
it. An attempt at a task holds a token; what it reports under an old token is refused, so a worker that was
taken for dead and comes back changes nothing.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.client import Pipeline

from service.jobs import scripts
from service.jobs.options import Options
from service.jobs.problems import Problem
from service.jobs.records import Job, Output, State, job_from_fields
from service.jobs.workers import text, worker_key
from service.settings import Settings

PLAN = "plan"
ASSEMBLE = "assemble"
SEGMENT = "segment-"


@dataclass(frozen=True)
class Claim:
    """The right to work on one task, until the worker dies or the job ends."""

    job_id: str
    task: str
    token: str
    attempt: int


class Refused(Exception):
    """A task was not handed out: `reason` is gone (job over), done, busy (a live worker has it) or exhausted."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def new_job_id() -> str:
    """28 hex digits that sort by time of creation: milliseconds, 65536ths of one, then 48 random bits."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    return f"{milliseconds:012x}{rest * 65536 // 1_000_000:04x}{secrets.token_hex(6)}"


def new_token() -> str:
    """What an attempt at a task proves itself by."""
    return secrets.token_hex(8)


def created_at(job_id: str) -> float:
    """When this id was made, in seconds since the epoch."""
    return int(job_id[:12], 16) / 1000


def segment_name(index: int) -> str:
    return f"{SEGMENT}{index}"


def segment_index(task: str) -> int:
    return int(task.removeprefix(SEGMENT))


def job_key(job_id: str, part: str = "") -> str:
    return f"dain:job:{job_id}{':' + part if part else ''}"


def task_key(job_id: str, task: str) -> str:
    return job_key(job_id, f"task:{task}")


def state_key(state: State) -> str:
    return f"dain:jobs:{state.value}"


Arguments = list[bytes | str | int | float]  # of a script

ALL = "dain:jobs"
FINISHED = "dain:finished"  # scored by time of finishing
RESULTS = "dain:results"  # jobs with a result in the store, scored by when it expires
UNCLEAN = "dain:unclean"  # finished jobs whose upload and segments are still in the store
COUNTERS = "dain:counters"


class Jobs:
    """Every job, in one Redis.

    `segments_in_flight` is how many of a job's segments are queued or running at a time: a long film does not
    starve the clip behind it. `result_ttl_seconds` is how long a result is kept.
    """

    def __init__(
        self, redis: Redis, *, segments_in_flight: int, max_attempts: int, result_ttl_seconds: float
    ):
        self._redis = redis
        self._segments_in_flight = segments_in_flight
        self._max_attempts = max_attempts
        self._result_ttl = result_ttl_seconds
        self._scripts = {name: redis.register_script(text) for name, text in scripts.ALL.items()}

    @classmethod
    def from_settings(cls, redis: Redis, settings: Settings) -> Jobs:
        return cls(
            redis,
            segments_in_flight=settings.segments_in_flight,
            max_attempts=settings.max_attempts,
            result_ttl_seconds=settings.result_ttl_seconds,
        )

    # -- what the API does ------------------------------------------------------------------------

    def create(
        self,
        job_id: str,
        *,
        source: str,
        filename: str,
        options: Options,
        input: Mapping[str, Any],
        also: Callable[[Pipeline], None] | None = None,
    ) -> Job:
        """Record an accepted job with its plan task waiting; `also` adds commands to the same transaction."""
        now = time.time()
        record: dict[Any, Any] = {
            "state": State.QUEUED.value,
            "created_at": now,
            "source": source,
            "filename": filename,
            "options": options.model_dump_json(),
            "input": json.dumps(dict(input)),
        }
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(job_key(job_id), mapping=record)
            pipe.hset(task_key(job_id, PLAN), mapping={"state": "queued", "queued_at": now})
            pipe.sadd(job_key(job_id, "active"), PLAN)
            pipe.zadd(ALL, {job_id: 0})
            pipe.zadd(state_key(State.QUEUED), {job_id: 0})
            pipe.hincrby(COUNTERS, "jobs_accepted")
            if also is not None:
                also(pipe)
            pipe.execute()
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """The job as it stands; a 404 `Problem` when there is none."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(job_key(job_id))
            pipe.smembers(job_key(job_id, "active"))
            pipe.zrank(state_key(State.QUEUED), job_id)
            fields, active, rank = pipe.execute()
        if not fields:
            raise Problem.job_not_found(job_id)
        return job_from_fields(job_id, _text(fields), rank, self._frames_in_hand(job_id, active))

    def page(
        self, status: State | None = None, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[Job], str | None]:
        """Jobs, newest first, after `cursor` (the last id of the page before), and the next cursor if there is more."""
        key = state_key(status) if status else ALL
        upper = f"({cursor}" if cursor else "+"
        ids = [text(raw) for raw in self._redis.zrevrangebylex(key, upper, "-", start=0, num=limit + 1)]
        jobs = [job for job in map(self._get_if_there, ids[:limit]) if job]
        return jobs, ids[limit - 1] if len(ids) > limit else None

    def cancel(self, job_id: str) -> Job:
        """End a live job as cancelled; a job that is over stays as it is. Workers stop at their next check."""
        self.get(job_id)
        self.finish(job_id, State.CANCELLED)
        return self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Forget a job that is over.

        Its upload and segments go with the next sweep; its result is the caller's to remove.
        """
        keys = [job_key(job_id), job_key(job_id, "active"), *self._task_keys(job_id)]
        with self._redis.pipeline(transaction=True) as pipe:
            for state in State:
                pipe.zrem(state_key(state), job_id)
            for index in (ALL, FINISHED, RESULTS):
                pipe.zrem(index, job_id)
            pipe.sadd(UNCLEAN, job_id)
            pipe.delete(*keys)
            pipe.execute()

    def longest_wait(self) -> float:
        """Seconds since the first job in the line was accepted; 0 when nobody waits."""
        first = self._redis.zrange(state_key(State.QUEUED), 0, 0)
        return max(time.time() - created_at(text(first[0])), 0.0) if first else 0.0

    def counts(self) -> dict[str, int]:
        """Jobs now in each state."""
        with self._redis.pipeline(transaction=False) as pipe:
            for state in State:
                pipe.zcard(state_key(state))
            return dict(zip([state.value for state in State], pipe.execute(), strict=True))

    def counters(self) -> dict[str, float]:
        """Totals that only grow: `jobs_accepted`, `jobs_<outcome>`, `frames`, `attempts_failed`, `seconds_<stage>`."""
        return {text(name): float(value) for name, value in self._redis.hgetall(COUNTERS).items()}

    # -- what a worker does -----------------------------------------------------------------------

    def claim(self, job_id: str, task: str, worker: str, token: str | None = None) -> Claim:
        """Take a task; `Refused` when it is not to be had.

        Whoever calls again after an error gives the same `new_token` again: the first call may have had its way.
        """
        token = token or new_token()
        keys = [
            job_key(job_id),
            task_key(job_id, task),
            job_key(job_id, "active"),
            state_key(State.QUEUED),
            state_key(State.RUNNING),
        ]
        arguments: Arguments = [job_id, task, worker, token, time.time(), self._max_attempts, worker_key("")]
        reply = self._scripts["claim"](keys=keys, args=arguments)
        if isinstance(reply, bytes):
            raise Refused(text(reply))
        return Claim(job_id, task, token, int(reply))

    def report(self, claim: Claim, frames: int, *, waiting: bool = False) -> bool:
        """Say how many output frames the attempt has made; False once the claim is void (job over, or task lost).

        `waiting` is an attempt that has not begun what could harm its worker: it is not charged for the worker's end.
        """
        keys = [job_key(claim.job_id), task_key(claim.job_id, claim.task)]
        return bool(self._scripts["report"](keys=keys, args=[claim.token, frames, time.time(), int(waiting)]))

    def complete(
        self,
        claim: Claim,
        *,
        task: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        add: Mapping[str, float] | None = None,
    ) -> list[str] | None:
        """Record a task as done and return the tasks that may start now; None when the claim is void.

        `task` and `job` are fields to set, `add` numbers to add to the job's and the service's totals.
        """
        job_id = claim.job_id
        keys = [job_key(job_id), task_key(job_id, claim.task), job_key(job_id, "active"), COUNTERS]
        arguments: Arguments = [claim.token, claim.task, time.time(), self._segments_in_flight]
        arguments += [
            job_key(job_id, "task:"),
            *(json.dumps(dict(values or {})) for values in (task, job, add)),
        ]
        reply = self._scripts["complete"](keys=keys, args=arguments)
        return None if reply is None else [text(name) for name in reply]

    def release(self, claim: Claim, *, failed: bool) -> bool:
        """Give a task back to be queued again; a failed attempt counts, a drained one does not. False: claim void."""
        job_id = claim.job_id
        keys = [job_key(job_id), task_key(job_id, claim.task), COUNTERS]
        return bool(self._scripts["release"](keys=keys, args=[claim.token, time.time(), int(failed)]))

    def finish(
        self,
        job_id: str,
        state: State,
        *,
        error: Problem | None = None,
        output: Output | None = None,
        claim: Claim | None = None,
    ) -> bool:
        """End a job; False when it was over already or `claim`, if given, is void. The first outcome stands."""
        now = time.time()
        fields: dict[str, Any] = {"finished_at": now}
        if error is not None:
            fields["error"] = json.dumps(error.as_dict(instance=f"/jobs/{job_id}"))
        if output is not None:
            fields |= {"output": output.model_dump_json(), "expires_at": now + self._result_ttl}
        keys = [
            job_key(job_id),
            job_key(job_id, "active"),
            state_key(State.QUEUED),
            state_key(State.RUNNING),
            state_key(state),
            FINISHED,
            UNCLEAN,
            COUNTERS,
            task_key(job_id, claim.task if claim else ""),
            RESULTS,
        ]
        token, expires_at = claim.token if claim else "", fields.get("expires_at", "")
        arguments = [job_id, state.value, now, json.dumps(fields), token, expires_at]
        return bool(self._scripts["finish"](keys=keys, args=arguments))

    def task_fields(self, job_id: str, tasks: Iterable[str], field: str) -> list[str | None]:
        """One field of each of several tasks, in their order."""
        with self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hget(task_key(job_id, task), field)
            return [None if raw is None else text(raw) for raw in pipe.execute()]

    # -- what the janitor does --------------------------------------------------------------------

    def live_tasks(self) -> list[tuple[str, str, dict[str, str]]]:
        """Every task that is queued or running: job, task, its fields."""
        jobs = [
            text(raw)
            for state in (State.QUEUED, State.RUNNING)
            for raw in self._redis.zrange(state_key(state), 0, -1)
        ]
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in jobs:
                pipe.smembers(job_key(job_id, "active"))
            names = [
                (job_id, text(raw))
                for job_id, active in zip(jobs, pipe.execute(), strict=True)
                for raw in active
            ]
            for job_id, task in names:
                pipe.hgetall(task_key(job_id, task))
            return [(*name, _text(fields)) for name, fields in zip(names, pipe.execute(), strict=True)]

    def requeue_lost(self, job_id: str, task: str, token: str) -> str:
        """Queue a task again whose worker died holding `token`: requeued, exhausted (no attempts left) or void."""
        keys = [job_key(job_id), task_key(job_id, task), COUNTERS]
        reply: bytes = self._scripts["requeue_lost"](keys=keys, args=[token, time.time(), self._max_attempts])
        return text(reply)

    def known(self, job_id: str) -> bool:
        """Whether there is a record of this job."""
        return bool(self._redis.exists(job_key(job_id)))

    def unclean(self) -> list[str]:
        """Jobs that are over (or forgotten) and still have an upload or segments in the store."""
        return [text(raw) for raw in self._redis.smembers(UNCLEAN)]

    def cleaned(self, job_id: str) -> None:
        """Say that they are gone. Its tasks' records, most of what a job takes here, go with them."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(*self._task_keys(job_id))
            pipe.srem(UNCLEAN, job_id)
            pipe.execute()

    def finished_before(self, moment: float) -> list[str]:
        """Jobs that ended before `moment`, oldest first."""
        return [text(raw) for raw in self._redis.zrangebyscore(FINISHED, "-inf", moment)]

    def results_expired_by(self, moment: float) -> list[str]:
        """Jobs whose result's time was up by `moment`."""
        return [text(raw) for raw in self._redis.zrangebyscore(RESULTS, "-inf", moment)]

    def mark_expired(self, job_id: str) -> None:
        """Say that the result is gone, while the record stays."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(job_key(job_id), "expired", 1)
            pipe.zrem(RESULTS, job_id)
            pipe.execute()

    # -- reading ----------------------------------------------------------------------------------

    def _task_keys(self, job_id: str) -> list[str]:
        segments = int(self._redis.hget(job_key(job_id), "segments_total") or 0)
        return [task_key(job_id, task) for task in (PLAN, ASSEMBLE, *map(segment_name, range(segments)))]

    def _get_if_there(self, job_id: str) -> Job | None:
        try:
            return self.get(job_id)
        except Problem:
            return None  # deleted since the page was read

    def _frames_in_hand(self, job_id: str, active: Iterable[bytes]) -> int:
        """Frames that running attempts have made and not yet delivered."""
        with self._redis.pipeline(transaction=False) as pipe:
            for task in active:
                pipe.hget(task_key(job_id, text(task)), "frames")
            return sum(int(raw or 0) for raw in pipe.execute())


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {text(name): text(value) for name, value in fields.items()}
