"""A job as it is stored in Redis (`Record`), and as the service shows it (`Job`).

How records outlive the version that wrote them:

- A record carries the `version` of the rules it was written by; a record without one is of version 0.
- A reader ignores the fields it does not know. It never removes them: every change sets single fields.
- A reader gives a default to a field that is missing.
- A field never changes its meaning. A new meaning gets a new name.
- A record that cannot be read is shown with what can be read of it, and an error that says so; see `read_job`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from service.errors import DainError
from service.jobs.notes import Note
from service.jobs.options import Options
from service.jobs.problems import Problem

#: The version of the rules that new records are written by.
VERSION = 1
#: Whose the jobs are, while the service tells no owners apart.
DEFAULT_OWNER = "default"
STAGE = "seconds_"  # prefix of the fields that sum up a stage's time


class State(StrEnum):
    """A job's state. The middle three are terminal: they never change again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  #: the record names no state that this version knows; no stored job has it

    @property
    def terminal(self) -> bool:
        """Whether this version expects no further change."""
        return self in TERMINAL or self is State.UNKNOWN


STORED_STATES = tuple(state for state in State if state is not State.UNKNOWN)
TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Progress(BaseModel):
    """How far a job is; frames are output frames."""

    frames_done: int = 0
    frames_total: int | None = Field(None, description="known once the job is planned")
    fraction: float = Field(0.0, description="0 to 1")
    fps: float | None = Field(None, description="output frames per second since the job started")
    eta_seconds: float | None = Field(
        None, description="seconds until the job is done; null where no living worker has run its model"
    )
    queue_position: int | None = Field(
        None, description="how many queued jobs are begun before this one; only while queued"
    )


@dataclass(frozen=True)
class Origin:
    """The request that a job came by, as logs and traces know it: its id, and its W3C `traceparent`."""

    request_id: str | None = None
    traceparent: str | None = None

    def as_fields(self) -> dict[str, str]:
        """The fields of a job's record that hold this."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Outlook:
    """What a queued job has before it: so many jobs, and so many seconds until it is done, where they are known."""

    position: int | None = None
    seconds: float | None = None


class Output(BaseModel):
    """The finished file. `key` is its place in the store."""

    model_config = ConfigDict(allow_inf_nan=False)

    key: str
    filename: str
    media_type: str
    size_bytes: int
    sha256: str
    blocks_sha256: str | None = (
        None  #: of the hashes of its blocks, which a large file has: see `service.store.blocks`
    )
    frames_sha256: str | None = None  #: of the file under `frames_key`, which says which frames are new
    frames: int
    frame_rate: str = Field(description="frames per second as an exact fraction; the mean where it varies")
    duration_seconds: float


def frames_key(key: str) -> str:
    """Where the store has what is known of each frame of the result under `key`."""
    return f"{key}.frames"


class Metrics(BaseModel):
    """What the job cost so far."""

    segments_done: int = 0
    segments_total: int | None = None
    attempts_failed: int = 0
    new_frames: int = Field(0, description="frames that the network computed")
    scene_cuts: int = 0
    recomputed_frames: int = Field(
        0, description="frames computed again in fp32 because half precision overflowed"
    )
    replans: int = Field(
        0, description="how often a GPU's memory ran out, and frames were made in smaller parts from then on"
    )
    vram_peak_bytes: int = 0
    stage_seconds: dict[str, float] = Field(default_factory=dict, description="summed over segments")


def _parse_json(text: str) -> Any:
    """The value of a JSON text. NaN and infinities are refused: no JSON answer can hold them."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


AsJson = BeforeValidator(_parse_json)
#: A note as it is stored and shown: with the fields that a later release gave it.
StoredNote = Annotated[Note, BeforeValidator(Note.read), PlainSerializer(lambda note: vars(note))]


class Record(BaseModel):
    """The fields of a job's hash in Redis. Each has a default, so that any part of a record can be read."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    version: int = 0
    owner: str = DEFAULT_OWNER
    state: State = State.UNKNOWN
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    expired: bool = False
    filename: str = ""
    source: str = ""  #: the upload's key in the store
    source_sha256: str | None = None
    options: Annotated[Options, AsJson] = Field(default_factory=Options)
    metadata: Annotated[dict[str, str], AsJson] = Field(default_factory=dict)
    reference: str | None = None
    priority: str = "normal"
    work: float = 0.0  #: megapixels of new frames, as estimated when it was accepted
    webhook_url: str | None = None
    webhook_events: Annotated[list[str], AsJson] = Field(default_factory=list)
    request_id: str | None = None
    traceparent: str | None = None
    input: Annotated[dict[str, Any], AsJson] = Field(default_factory=dict)
    facts: Annotated[dict[str, Any], AsJson] = Field(default_factory=dict)
    notes: Annotated[list[StoredNote], AsJson] = Field(default_factory=list)
    output: Annotated[Output, AsJson] | None = None
    error: Annotated[dict[str, Any], AsJson] | None = None
    frames: int = 0  #: of the result, in finished segments
    frames_total: int | None = None
    segments_done: int = 0
    segments_total: int | None = None
    attempts_failed: int = 0
    new_frames: int = 0
    scene_cuts: int = 0
    recomputed_frames: int = 0
    replans: int = 0
    vram_peak_bytes: int = 0

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds that workers spent in each stage; a value that is no number is left out."""
        given = (self.model_extra or {}).items()
        stages = {name.removeprefix(STAGE): _number(text) for name, text in given if name.startswith(STAGE)}
        return {name: seconds for name, seconds in stages.items() if math.isfinite(seconds)}


class Job(BaseModel):
    """A job as it stands."""

    id: str
    version: int = Field(VERSION, exclude=True)
    owner: str = Field(DEFAULT_OWNER, exclude=True)
    status: State
    created_at: float = Field(description="seconds since the epoch, like every `_at`")
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = Field(None, description="when the result is removed")
    expired: bool = False
    filename: str
    source: str = Field(description="the upload's place in the store")
    source_sha256: str | None = Field(None, exclude=True)
    options: Options
    metadata: dict[str, str] = Field(
        default_factory=dict, description="the caller's own notes on the job, as they were given"
    )
    reference: str | None = Field(None, description="the caller's own name for the job")
    priority: str = Field("normal", description="how it stands among its owner's jobs")
    work: float = Field(0.0, description="what it costs the workers, as estimated: megapixels of new frames")
    webhook_url: str | None = Field(None, description="where the job's events are sent")
    webhook_events: list[str] = Field(default_factory=list, description="the events that are sent there")
    input: dict[str, Any]
    facts: dict[str, Any] = Field(
        default_factory=dict, exclude=True, description="what the prober found in the upload"
    )
    notes: list[StoredNote] = Field(
        default_factory=list,
        description="what of the input did not come through to the result as it was, and what was found in it",
    )
    progress: Progress
    output: Output | None = None
    metrics: Metrics
    error: dict[str, Any] | None = Field(None, description="the problem document of a failed job")
    origin: Origin = Field(default_factory=Origin, exclude=True)

    @property
    def log_fields(self) -> dict[str, str | None]:
        """How logs name the job."""
        return {
            "job": self.id,
            "owner": self.owner,
            "name": self.filename,
            "reference": self.reference,
            "request_id": self.origin.request_id,
        }


class UnreadableRecord(DainError):
    """A job's record holds fields that this version cannot read. `job` is what can be read of it."""

    def __init__(self, problem: Problem, job: Job) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.job = job


def read_job(job_id: str, fields: Mapping[str, str], outlook: Outlook, in_hand: int, *, now: float) -> Job:
    """The job of a hash in Redis; running attempts have made `in_hand` frames that are not delivered yet.

    `now` is the time by the clock that wrote the record's times, which is Redis's.

    Raises:
        UnreadableRecord: fields cannot be read.
    """
    record, unreadable = _read_record(fields)
    job = Job(
        id=job_id,
        version=record.version,
        owner=record.owner,
        status=record.state,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        expires_at=record.expires_at,
        expired=record.expired,
        filename=record.filename,
        source=record.source,
        source_sha256=record.source_sha256,
        options=record.options,
        metadata=record.metadata,
        reference=record.reference,
        priority=record.priority,
        work=record.work,
        webhook_url=record.webhook_url,
        webhook_events=record.webhook_events,
        input=record.input,
        facts=record.facts,
        notes=record.notes,
        progress=_progress(record, in_hand, outlook, now),
        output=record.output,
        metrics=Metrics(
            **record.model_dump(include=Metrics.model_fields.keys() - {"stage_seconds"}),
            stage_seconds=record.stage_seconds,
        ),
        error=record.error,
        origin=Origin(record.request_id, record.traceparent),
    )
    if unreadable:
        problem = Problem.unreadable_record(job_id, unreadable)
        job.error = problem.as_dict(instance=f"/jobs/{job_id}")
        raise UnreadableRecord(problem, job)
    return job


def _read_record(fields: Mapping[str, str]) -> tuple[Record, list[str]]:
    """The record, with defaults for the fields that cannot be read, and the names of those fields."""
    unreadable: set[str] = set() if "state" in fields else {"state"}
    try:
        return Record.model_validate(fields), sorted(unreadable)
    except ValidationError as error:
        unreadable |= {str(fault["loc"][0]) for fault in error.errors()}
    readable = {name: value for name, value in fields.items() if name not in unreadable}
    return Record.model_validate(readable), sorted(unreadable)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _progress(record: Record, in_hand: int, outlook: Outlook, now: float) -> Progress:
    done, total = record.frames + in_hand, record.frames_total
    elapsed = (record.finished_at or now) - record.started_at if record.started_at else 0.0
    fps = done / elapsed if done and elapsed > 0 else None
    return Progress(
        frames_done=done,
        frames_total=total,
        fraction=min(done / total, 1.0) if total else 0.0,
        fps=fps,
        eta_seconds=max(total - done, 0) / fps if total and fps else outlook.seconds,
        queue_position=outlook.position,
    )
