"""What jobs, their tasks and their keys in Redis are called."""

from __future__ import annotations

import re
import secrets
import time

from service.jobs.records import State

PLAN = "plan"
ASSEMBLE = "assemble"
SEGMENT = "segment-"

_JOB_ID = re.compile(r"[0-9a-f]{28}")

ALL = "dain:jobs"
OWNERS = "dain:owners"  # whoever has, or had, jobs
EVENTS = "dain:events"  # the stream; see `service.jobs.events`
FINISHED = "dain:finished"  # scored by time of finishing
LAST_ID = "dain:last_id"  # of a job
RESULTS = "dain:results"  # jobs with a result in the store, scored by when it expires
UNCLEAN = "dain:unclean"  # finished jobs whose upload and segments are still in the store
COUNTERS = "dain:counters"
STORED = "dain:stored"  # bytes in the store, by kind
LINE = "dain:line"  # of the tasks that are ready; see lua/common.lua


def new_job_id() -> str:
    """28 hex digits: milliseconds since the epoch by this machine's clock, 65536ths of one, then 48 random bits."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    return f"{milliseconds:012x}{rest * 65536 // 1_000_000:04x}{secrets.token_hex(6)}"


def new_token() -> str:
    """The secret that proves an attempt at a task."""
    return secrets.token_hex(8)


def is_job_id(text: str) -> bool:
    """Whether `text` has the form of a job's id."""
    return bool(_JOB_ID.fullmatch(text))


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


def owner_key(owner: str) -> str:
    return f"dain:owner:{owner}:jobs"
