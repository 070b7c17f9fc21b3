"""The state machine of jobs and their tasks, in Redis.

A job is cut into tasks: `plan`, then `segment-0` … `segment-n`, then `assemble`. The tasks' own records here
are the truth about what has been done; the queue only carries their names and may lose or repeat them.

    job    queued ──▶ running ──▶ succeeded | failed | cancelled        the first terminal state wins
    task   queued ──▶ running ──▶ done                                  running ──▶ queued when an attempt ends early

Every change is one Lua script of the folder `lua`, so that two processes can never both make it. A script that
changes a job's state appends an event to a stream; see `service.jobs.events`. An attempt at a task holds a token.
What a worker reports under an old token is refused, so a worker that was taken for dead and comes back changes
nothing.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from service.errors import DainError
from service.jobs.backlog import AUTO, Backlog, LiveJob, rates_of
from service.jobs.keys import Quota
from service.jobs.names import (
    ALL,
    COUNTERS,
    EVENTS,
    FINISHED,
    LAST_ID,
    LINE,
    OWNERS,
    PLAN,
    RESULTS,
    STORED,
    UNCLEAN,
    created_at,
    job_key,
    new_job_id,
    new_token,
    owner_key,
    state_key,
    task_key,
)
from service.jobs.notes import Note
from service.jobs.options import Handling, Options
from service.jobs.problems import Problem
from service.jobs.records import (
    DEFAULT_OWNER,
    STORED_STATES,
    VERSION,
    Job,
    Origin,
    Outlook,
    Output,
    State,
    UnreadableRecord,
    read_job,
)
from service.jobs.workers import living_workers, text, worker_key
from service.logs import get_logger
from service.settings import Settings
from service.store import Stored

log = get_logger("dain.jobs")


@dataclass(frozen=True)
class Claim:
    """The right to work on one task, until the worker dies or the job ends."""

    job_id: str
    task: str
    token: str
    attempt: int
    begins_job: bool = False


class Standing(IntEnum):
    """How an attempt stands."""

    VOID = 0  #: its job is over, or its task is another's
    VALID = 1
    WATCHED = 2  #: valid, and somebody wants to see what it makes


@dataclass(frozen=True)
class Entry:
    """A value of Redis that lives for some seconds."""

    name: str
    value: str
    seconds: int


class Refused(DainError):
    """A task was not handed out: `reason` is gone (job over), done, busy (a live worker has it) or exhausted."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def _quota_keys(owner: str) -> list[str]:
    """What a script needs beside the queued jobs to see what an owner has."""
    return [owner_key(owner), state_key(State.RUNNING), f"dain:owner:{owner}:bytes"]


Arguments = list[str | int | float | bytes]  # of a script
WATCHED_SECONDS = 30  # that somebody who asked for a picture counts as looking

BACKLOG_FIELDS = ("owner", "state", "priority", "options", "work", "segments_total", "segments_done")
BACKLOG_SECONDS = 1.0  # how old a backlog may be of which a job's outlook is shown

LOOK_UP = 500  # ids that one command reads of an index, or looks up in one
MOST_LOOKED_AT = 10_000  # ids that one page may cost

_FOLDER = files("service.jobs") / "lua"
_COMMON = (_FOLDER / "common.lua").read_text()
SCRIPTS = {
    file.name.removesuffix(".lua"): _COMMON + file.read_text()
    for file in _FOLDER.iterdir()
    if file.name.endswith(".lua") and file.name != "common.lua"
}


class Jobs:
    """Every job, in one Redis.

    `segments_in_flight` is how many of a job's segments are queued or running at a time. `result_ttl_seconds` is how
    long a result is kept.
    """

    def __init__(
        self, redis: Redis, *, segments_in_flight: int, max_attempts: int, result_ttl_seconds: float
    ):
        self._redis = redis
        self._segments_in_flight = segments_in_flight
        self._max_attempts = max_attempts
        self._result_ttl = result_ttl_seconds
        self._recent = -math.inf, Backlog([], [], {})
        self._scripts = {name: redis.register_script(source) for name, source in SCRIPTS.items()}

    @classmethod
    def from_settings(cls, redis: Redis, settings: Settings) -> Jobs:
        return cls(
            redis,
            segments_in_flight=settings.segments_in_flight,
            max_attempts=settings.max_attempts,
            result_ttl_seconds=settings.result_ttl_seconds,
        )

    # -- what the API does ------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id for a job: above every id before it, even where the clock was set back."""
        return text(self._call("next_id", new_job_id(), [LAST_ID], []))

    def create(
        self,
        job_id: str,
        *,
        source: str,
        filename: str,
        options: Options,
        handling: Handling | None = None,
        input: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        notes: Sequence[Note] = (),
        source_sha256: str | None = None,
        owner: str = DEFAULT_OWNER,
        work: float = 0.0,
        weight: float = 1.0,
        size_bytes: int = 0,
        quota: Quota | None = None,
        entry: Entry | None = None,
        origin: Origin | None = None,
    ) -> Job:
        """Record an accepted job with its plan task waiting.

        Args:
            source: the upload's key in the store; `source_sha256` is its hash, which each reader checks.
            input: the facts about the upload that callers see.
            facts: everything that the prober found, for the worker that plans.
            notes: what of the input will not come through.
            work: what it will cost the workers, in megapixels of new frames; see `service.jobs.work`.
            weight: the owner's share of the workers, against that of other owners.
            size_bytes: of the upload, which counts against what the owner may upload today; 0 where it does already.
            quota: what the owner may have, this job included.
            entry: is set in Redis in the same step.
            origin: the request that the job came by.

        Raises:
            Problem: 429 `quota-exceeded`; nothing is recorded.
        """
        record: dict[str, str] = {
            "version": str(VERSION),
            "owner": owner,
            "source": source,
            "filename": filename,
            "options": options.model_dump_json(),
            "input": json.dumps(dict(input)),
            "facts": json.dumps(dict(facts or {})),
            "work": str(work),
            "weight": str(weight),
            **(handling or Handling()).as_fields(),
            **(origin or Origin()).as_fields(),
        }
        if source_sha256 is not None:
            record["source_sha256"] = source_sha256
        keys = [task_key(job_id, PLAN), job_key(job_id, "active"), ALL, state_key(State.QUEUED), COUNTERS]
        keys += [OWNERS, *_quota_keys(owner), entry.name if entry else ""]
        arguments: Arguments = [json.dumps(record), _encoded(notes), owner]
        arguments += [*_limits(quota or Quota()), size_bytes, work]
        if entry is not None:
            arguments += [entry.value, entry.seconds]
        _raise_for_quota(self._call("create", job_id, keys, arguments), owner)
        job = self.get(job_id)
        log.info("job accepted", **job.log_fields, megapixels=round(work, 3), size_bytes=size_bytes or None)
        return job

    def check_quota(self, owner: str, quota: Quota, size_bytes: int, work: float = 0.0) -> None:
        """Raises Problem 429 where one more job, with an upload of `size_bytes`, would go beyond what `owner` may have.

        `create` has the last word: others of the owner's jobs may arrive meanwhile.
        """
        keys = [state_key(State.QUEUED), *_quota_keys(owner)]
        _raise_for_quota(self._call("quota", "", keys, [*_limits(quota), size_bytes, work]), owner)

    def bytes_used(self, owner: str) -> tuple[int, int]:
        """The bytes that `owner` uploaded today, and the seconds until midnight UTC, when there are none again."""
        *_, key = _quota_keys(owner)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.get(key)
            pipe.time()
            used, (now, _) = pipe.execute()
        return int(used or 0), 86400 - now % 86400

    def charge(self, owner: str, quota: Quota, size_bytes: int) -> None:
        """Counts an upload that is to come before its job; Problem 429 where `owner` may not upload as much today."""
        keys = [state_key(State.QUEUED), *_quota_keys(owner)]
        limit = "" if quota.bytes is None else quota.bytes
        _raise_for_quota(self._call("charge", "", keys, [limit, size_bytes]), owner)

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """The job as it stands, for whoever works on it. With `owner`, another owner's job counts as absent.

        Raises:
            Problem: 404 `job-not-found`.
            UnreadableRecord: this version cannot read all of the job's record.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(job_key(job_id))
            pipe.smembers(job_key(job_id, "active"))
            pipe.time()
            fields, active, (seconds, microseconds) = pipe.execute()
        if not fields or (
            owner is not None and fields.get(b"owner", DEFAULT_OWNER.encode()) != owner.encode()
        ):
            raise Problem.job_not_found(job_id)
        state = fields.get(b"state")
        in_hand = self._frames_in_hand(job_id, active) if state == b"running" else 0
        outlook = self._outlook(job_id, fields) if state == b"queued" else Outlook()
        return read_job(job_id, _text(fields), outlook, in_hand, now=seconds + microseconds / 1e6)

    def show(self, job_id: str, *, owner: str | None = None) -> Job:
        """As `get`, for whoever only shows the job: what cannot be read of it is a default, and `error` says so."""
        try:
            return self.get(job_id, owner=owner)
        except UnreadableRecord as error:
            return error.job

    def page(
        self,
        owner: str,
        status: State | None = None,
        cursor: str | None = None,
        limit: int = 50,
        *,
        reference: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[list[Job], str | None]:
        """Jobs of `owner`, newest first, after `cursor`, where the page before ended; and the next cursor.

        With `reference` and `metadata` only those that have it, and all of it. A page may have fewer than `limit` jobs,
        or none, though there is more: where few jobs are what is asked for.
        """
        ids, more = self._ids(owner, status, cursor, limit, partial(self._having, reference, metadata or {}))
        jobs = [job for job in map(self._show_if_there, ids) if job]
        return jobs, more

    def _ids(
        self,
        owner: str,
        status: State | None,
        cursor: str | None,
        limit: int,
        select: Callable[[list[str]], list[str]],
    ) -> tuple[list[str], str | None]:
        """The ids of a page, and the next cursor. `select` takes those out of some ids that the page may have.

        There is no index of an owner's jobs in one state: a worker of an earlier release would not keep it. So one
        of two indexes is walked, the shorter one, and each id looked up in the other.
        """
        walked, other = owner_key(owner), None
        if status is not None:
            walked, other = sorted((owner_key(owner), state_key(status)), key=self._redis.zcard)
        found: list[str] = []
        for _ in range(MOST_LOOKED_AT // LOOK_UP):
            upper = f"({cursor}" if cursor else "+"
            batch = _texts(self._redis.zrevrangebylex(walked, upper, "-", start=0, num=LOOK_UP))
            if not batch:
                return found, None
            scores = self._redis.zmscore(other, batch) if other else [0.0] * len(batch)
            found += select(
                [job_id for job_id, score in zip(batch, scores, strict=True) if score is not None]
            )
            if len(found) > limit:
                return found[:limit], found[limit - 1]
            cursor = batch[-1]
        return found, cursor

    def cancel(self, job_id: str) -> Job:
        """End a live job as cancelled; a job that is over stays as it is. Workers stop at their next check."""
        self.show(job_id)
        self.finish(job_id, State.CANCELLED)
        return self.show(job_id)

    def delete(self, job_id: str) -> None:
        """Forget a job that is over.

        The next sweep removes its upload and segments; the caller removes its result.
        """
        owner = text(self._redis.hget(job_key(job_id), "owner") or DEFAULT_OWNER.encode())
        indexes = [ALL, owner_key(owner), FINISHED, RESULTS, *map(state_key, STORED_STATES)]
        keys = [job_key(job_id, "active"), UNCLEAN, *indexes]
        self._call("delete", job_id, keys, [job_key(job_id, "task:")])

    def picture(self, job_id: str) -> bytes | None:
        """The newest picture of what a running job makes. Its workers make some for as long as this is asked for."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(job_key(job_id, "watched"), 1, ex=WATCHED_SECONDS)
            pipe.get(job_key(job_id, "picture"))
            found: bytes | None = pipe.execute()[1]
            return found

    def longest_wait(self) -> float:
        """Seconds since the first job in the line was accepted; 0 when nobody waits."""
        first = self._redis.zrange(state_key(State.QUEUED), 0, 0)
        return max(time.time() - created_at(text(first[0])), 0.0) if first else 0.0

    def backlog(self) -> Backlog:
        """What the workers have before them now."""
        states = [state_key(State.QUEUED), state_key(State.RUNNING)]
        *rows, owners = self._call("backlog", "", states, list(BACKLOG_FIELDS))
        live = [_live_job(text(job_id), fields) for job_id, *fields in rows]
        return Backlog(live, _texts(owners), rates_of(living_workers(self._redis)))

    def counts(self) -> dict[str, int]:
        """Jobs now in each state."""
        with self._redis.pipeline(transaction=False) as pipe:
            for state in STORED_STATES:
                pipe.zcard(state_key(state))
            return dict(zip([state.value for state in STORED_STATES], pipe.execute(), strict=True))

    def counters(self) -> dict[str, float]:
        """Totals that only grow: `jobs_accepted`, `jobs_<outcome>`, `frames`, `attempts_failed`, `seconds_<stage>`."""
        return {text(name): float(value) for name, value in self._redis.hgetall(COUNTERS).items()}

    def stored(self) -> dict[str, int]:
        """Bytes in the store, by kind, as the janitor last found them; empty where it has not looked yet."""
        return {text(kind): int(size) for kind, size in self._redis.hgetall(STORED).items()}

    # -- what a worker does -----------------------------------------------------------------------

    def next_task(self) -> tuple[str, str] | None:
        """Take the task out of the line whose turn it is: its job and its name, to be claimed. None: no task is ready.

        The turn goes to the owner who has had the least of the workers, and of the owner's jobs mostly to the smallest:
        see `lua/next.lua`.
        """
        reply = self._call("next", "", [], [])
        return reply and (text(reply[0]), text(reply[1]))

    def claim(self, job_id: str, task: str, worker: str, token: str | None = None) -> Claim:
        """Take a task.

        Whoever calls again after an error gives the same `new_token` again: Redis may have run the first call.

        Raises:
            Refused: the task is not to be had.
        """
        token = token or new_token()
        keys = [
            task_key(job_id, task),
            job_key(job_id, "active"),
            state_key(State.QUEUED),
            state_key(State.RUNNING),
        ]
        reply = self._call("claim", job_id, keys, [task, worker, token, self._max_attempts, worker_key("")])
        if isinstance(reply, bytes):
            raise Refused(text(reply))
        attempt, begins_job = reply
        return Claim(job_id, task, token, int(attempt), bool(begins_job))

    def report(
        self, claim: Claim, frames: int, *, waiting: bool = False, picture: bytes | None = None
    ) -> Standing:
        """Say how many output frames the attempt has made, and show a `picture` of the newest to those who look.

        `waiting` is an attempt that has not begun what could harm its worker: it is not charged for the worker's end.
        """
        keys = [task_key(claim.job_id, claim.task), job_key(claim.job_id, "active")]
        arguments: Arguments = [claim.token, frames, int(waiting), job_key(claim.job_id, "task:")]
        return Standing(self._call("report", claim.job_id, keys, [*arguments, picture or b""]))

    def complete(
        self,
        claim: Claim,
        *,
        task: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        add: Mapping[str, float] | None = None,
        notes: Sequence[Note] = (),
    ) -> list[str] | None:
        """Record a task as done and return the tasks that may start now; None when the claim is void.

        `task` and `job` are fields to set, `add` numbers to add to the job's and the service's totals, `notes`
        those to add to the job's. A task that published a file records it with `task=stored.as_fields()`; see
        `task_files`.
        """
        job_id = claim.job_id
        keys = [task_key(job_id, claim.task), job_key(job_id, "active"), COUNTERS]
        arguments: Arguments = [claim.token, claim.task, self._segments_in_flight]
        arguments += [
            job_key(job_id, "task:"),
            *(json.dumps(dict(values or {})) for values in (task, job, add)),
            _encoded(notes),
        ]
        reply = self._call("complete", job_id, keys, arguments)
        return None if reply is None else [text(name) for name in reply]

    def redo(self, claim: Claim, segments: Iterable[str]) -> bool:
        """Have damaged segments made again before the claimed task, which starts anew after them.

        The caller queues the segments. False: the claim is void. The attempt counts.
        """
        job_id = claim.job_id
        keys = [task_key(job_id, claim.task), job_key(job_id, "active")]
        arguments: Arguments = [claim.token, claim.task, job_key(job_id, "task:"), json.dumps(list(segments))]
        return bool(self._call("redo", job_id, keys, arguments))

    def release(self, claim: Claim, *, failed: bool, needs_model: str = "") -> bool:
        """Give a task back to be queued again; a failed attempt counts, a drained one does not. False: claim void.

        `needs_model` is a model that the worker does not serve. The caller then leaves the queueing to the janitor.
        """
        keys = [task_key(claim.job_id, claim.task), COUNTERS]
        return bool(
            self._call("release", claim.job_id, keys, [claim.token, claim.task, int(failed), needs_model])
        )

    def finish(
        self,
        job_id: str,
        state: State,
        *,
        error: Problem | None = None,
        output: Output | None = None,
        notes: Sequence[Note] = (),
        claim: Claim | None = None,
    ) -> bool:
        """End a job; False when it was over already or `claim`, if given, is void. The first outcome stands."""
        keys = [
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
        arguments: Arguments = [
            state.value,
            json.dumps({} if output is None else {"output": output.model_dump_json()}),
            claim.token if claim else "",
            "" if output is None else self._result_ttl,
            _encoded(notes),
            "" if error is None else json.dumps(error.as_dict(instance=f"/jobs/{job_id}")),
        ]
        ended = bool(self._call("finish", job_id, keys, arguments))
        if ended:
            self._log_end(job_id, state, error)
        return ended

    def _log_end(self, job_id: str, state: State, error: Problem | None) -> None:
        """Log the end of a job, with what can be read of it."""
        facts: dict[str, Any] = {"job": job_id}
        with suppress(RedisError, Problem):
            job = self.show(job_id)
            fps = job.progress.fps
            facts = job.log_fields | {"frames": job.progress.frames_done, "fps": fps and round(fps, 2)}
            facts["seconds"] = round((job.finished_at or 0.0) - job.created_at, 3)
        level = logging.WARNING if state is State.FAILED else logging.INFO
        problem = {"error": error.slug, "detail": error.detail} if error else {}
        log.log(level, "job ended", outcome=state.value, **facts, **problem)

    def task_fields(self, job_id: str, tasks: Iterable[str], field: str) -> list[str | None]:
        """One field of each of several tasks, in their order."""
        with self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hget(task_key(job_id, task), field)
            return [None if raw is None else text(raw) for raw in pipe.execute()]

    def task_files(self, job_id: str, tasks: Iterable[str]) -> list[Stored | None]:
        """The file that each of several tasks published, in their order; None where a task recorded none."""
        with self._redis.pipeline(transaction=False) as pipe:
            for task in tasks:
                pipe.hgetall(task_key(job_id, task))
            return [Stored.from_fields(_text(fields)) for fields in pipe.execute()]

    # -- what the janitor does --------------------------------------------------------------------

    def in_line(self) -> set[tuple[str, str]]:
        """Every task in the line, as (job, task)."""
        owners = _texts(self._redis.zrange(LINE, 0, -1))
        with self._redis.pipeline(transaction=False) as pipe:
            for owner in owners:
                pipe.zrange(f"{LINE}:jobs:{owner}", 0, -1)
            jobs = [job_id for found in pipe.execute() for job_id in _texts(found)]
            for job_id in jobs:
                pipe.zrange(job_key(job_id, "ready"), 0, -1)
            found = zip(jobs, pipe.execute(), strict=True)
            return {(job_id, task) for job_id, tasks in found for task in _texts(tasks)}

    def offer(self, job_id: str, task: str) -> None:
        """Put a queued task into the line. Offering one twice is harmless."""
        self._call("offer", job_id, [task_key(job_id, task)], [task])

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
            found = zip(names, pipe.execute(), strict=True)
            return [
                (*name, _text(fields)) for name, fields in found if fields
            ]  # a job may have ended meanwhile

    def requeue_lost(self, job_id: str, task: str, token: str) -> str:
        """Queue a task again whose worker lost it holding `token`: requeued, exhausted (no attempts left) or void."""
        keys = [task_key(job_id, task), COUNTERS]
        return text(self._call("requeue_lost", job_id, keys, [token, task, self._max_attempts]))

    def state(self, job_id: str) -> State | None:
        """The job's state; None where there is no record of it."""
        raw = self._redis.hget(job_key(job_id), "state")
        known = [state for state in STORED_STATES if raw == state.value.encode()]
        return known[0] if known else State.UNKNOWN if self._redis.exists(job_key(job_id)) else None

    def unclean(self) -> list[str]:
        """Jobs that are over (or forgotten) and still have an upload or segments in the store."""
        return [text(raw) for raw in self._redis.smembers(UNCLEAN)]

    def cleaned(self, job_id: str) -> None:
        """Say that they are gone. The records of the job's tasks, most of what it takes here, go with them."""
        self._call("cleaned", job_id, [UNCLEAN], [job_key(job_id, "task:")])

    def finished_before(self, moment: float) -> list[str]:
        """Jobs that ended before `moment`, oldest first."""
        return [text(raw) for raw in self._redis.zrangebyscore(FINISHED, "-inf", moment)]

    def results_expired_by(self, moment: float) -> list[str]:
        """Jobs whose result's time was up by `moment`."""
        return [text(raw) for raw in self._redis.zrangebyscore(RESULTS, "-inf", moment)]

    def mark_expired(self, job_id: str) -> bool:
        """Say that the result is gone, while the record stays. False: the job was deleted, or marked before."""
        return bool(self._call("expire", job_id, [RESULTS], []))

    def record_stored(self, sizes: Mapping[str, int]) -> None:
        """Say how many bytes of each kind the store has."""
        fields: dict[Any, Any] = dict(sizes)
        self._redis.hset(STORED, mapping=fields)

    def index_owners(self) -> None:
        """Bring the owners' indexes in line with the index of all jobs, which an earlier release keeps alone."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zcard(ALL)
            pipe.smembers(OWNERS)
            total, owners = pipe.execute()
            for owner in _texts(owners):
                pipe.zcard(owner_key(owner))
            if sum(pipe.execute()) == total:
                return
        for batch in self._batches(ALL):
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in batch:
                    pipe.hget(job_key(job_id), "owner")
                for job_id, raw in zip(batch, pipe.execute(), strict=True):
                    owner = text(raw or DEFAULT_OWNER.encode())
                    pipe.sadd(OWNERS, owner)
                    pipe.zadd(owner_key(owner), {job_id: 0})
                pipe.execute()
        for index in map(owner_key, _texts(self._redis.smembers(OWNERS))):
            for batch in self._batches(index):
                scores = self._redis.zmscore(ALL, batch)
                if gone := [job_id for job_id, score in zip(batch, scores, strict=True) if score is None]:
                    self._redis.zrem(index, *gone)

    # -- reading ----------------------------------------------------------------------------------

    def _call(
        self,
        script: str,
        job_id: str,
        keys: Sequence[str],
        arguments: Arguments,
    ) -> Any:
        """Run a script on a job."""
        keys = [EVENTS, job_key(job_id), *keys]
        return self._scripts[script](keys=keys, args=[job_id, *arguments])

    def _batches(self, index: str) -> Iterator[list[str]]:
        """The ids in an index, in their order, some at a time."""
        lower = "-"
        while batch := _texts(self._redis.zrangebylex(index, lower, "+", start=0, num=LOOK_UP)):
            yield batch
            lower = f"({batch[-1]}"

    def _having(self, reference: str | None, metadata: Mapping[str, str], job_ids: list[str]) -> list[str]:
        """Those of the jobs that have the reference, where one is given, and all the metadata."""
        if reference is None and not metadata:
            return job_ids
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(job_key(job_id), ["reference", "metadata"])
            found = zip(job_ids, pipe.execute(), strict=True)
            return [job_id for job_id, fields in found if _has(fields, reference, metadata)]

    def _outlook(self, job_id: str, fields: Mapping[bytes, bytes]) -> Outlook:
        """What a queued job has before it, as it was within the last second."""
        looked_at, backlog = self._recent
        if time.monotonic() - looked_at > BACKLOG_SECONDS:
            looked_at, backlog = time.monotonic(), self.backlog()
        if backlog.position(job_id) is None:  # it came since
            backlog = backlog.with_job(
                _live_job(job_id, [fields.get(name.encode()) for name in BACKLOG_FIELDS])
            )
        self._recent = looked_at, backlog
        return Outlook(backlog.position(job_id), backlog.seconds_until_done(job_id))

    def _show_if_there(self, job_id: str) -> Job | None:
        try:
            return self.show(job_id)
        except Problem:
            return None  # deleted since the page was read

    def _frames_in_hand(self, job_id: str, active: Iterable[bytes]) -> int:
        """Frames that running attempts have made and not yet delivered."""
        with self._redis.pipeline(transaction=False) as pipe:
            for task in active:
                pipe.hget(task_key(job_id, text(task)), "frames")
            return sum(int(raw) for raw in pipe.execute() if raw is not None and raw.isdigit())


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}


def _limits(quota: Quota) -> Arguments:
    return ["" if limit is None else limit for limit in (quota.jobs, quota.bytes, quota.work)]


def _raise_for_quota(reply: Any, owner: str) -> None:
    """Raises the Problem of a script's reply that says what of the quota is used up."""
    if isinstance(reply, list):
        what, limit, used, seconds = reply
        raise Problem.quota_exceeded(text(what), owner, limit=limit, used=float(used), seconds=seconds)


def _encoded(notes: Iterable[Note]) -> str:
    return json.dumps([note.as_dict() for note in notes])


def _texts(members: Iterable[Any]) -> list[str]:
    return [text(raw) for raw in members]


def _live_job(job_id: str, fields: list[bytes | None]) -> LiveJob:
    """What the backlog says of a job whose `BACKLOG_FIELDS` these are. What cannot be read is a default."""
    record = {
        name: raw.decode(errors="replace") for name, raw in zip(BACKLOG_FIELDS, fields, strict=True) if raw
    }
    work, total, done = (_number(record.get(name)) for name in ("work", "segments_total", "segments_done"))
    try:
        model = str(json.loads(record.get("options", "{}")).get("model", AUTO))
    except (ValueError, AttributeError):
        model = AUTO
    return LiveJob(
        id=job_id,
        owner=record.get("owner", DEFAULT_OWNER),
        is_queued=record.get("state") == State.QUEUED,
        priority=record.get("priority", ""),
        model=model,
        work=work,
        left=work * (1 - done / total) if total else work,
    )


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _has(fields: list[bytes | None], reference: str | None, metadata: Mapping[str, str]) -> bool:
    """Whether a job's fields `reference` and `metadata` are what is asked for; what cannot be read is not."""
    given, noted = (None if raw is None else raw.decode(errors="replace") for raw in fields)
    if reference is not None and given != reference:
        return False
    try:
        return metadata.items() <= json.loads(noted or "{}").items()
    except (ValueError, AttributeError):
        return False
