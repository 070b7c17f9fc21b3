"""A job as the service shows it, made from what `service.jobs.machine` keeps."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from service.jobs.options import Options


class State(StrEnum):
    """A job's state; the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Progress(BaseModel):
    """How far a job is; frames are output frames."""

    frames_done: int = 0
    frames_total: int | None = Field(None, description="known once the job is planned")
    fraction: float = Field(0.0, description="0 to 1")
    fps: float | None = Field(None, description="output frames per second since the job started")
    eta_seconds: float | None = None
    queue_position: int | None = Field(None, description="0 is next; only while queued")


class Output(BaseModel):
    """The finished file. `key` is its place in the store."""

    key: str
    filename: str
    media_type: str
    size_bytes: int
    sha256: str
    frames: int
    frame_rate: str = Field(description="frames per second as an exact fraction; the mean where it varies")
    duration_seconds: float


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
    vram_peak_bytes: int = 0
    stage_seconds: dict[str, float] = Field(default_factory=dict, description="summed over segments")


class Job(BaseModel):
    """A job as it stands."""

    id: str
    status: State
    created_at: float = Field(description="seconds since the epoch, like every `_at`")
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = Field(None, description="when the result is removed")
    expired: bool = False
    filename: str
    source: str = Field(description="the upload's place in the store")
    options: Options
    input: dict[str, Any]
    progress: Progress
    output: Output | None = None
    metrics: Metrics
    error: dict[str, Any] | None = Field(None, description="the problem document of a failed job")


def job_from_fields(job_id: str, fields: Mapping[str, str], queue_position: int | None, in_hand: int) -> Job:
    """The job with these fields in Redis; `in_hand` frames are made by running attempts and not yet delivered."""
    number = {name: float(value) for name, value in fields.items() if _is_number(value)}
    return Job(
        id=job_id,
        status=State(fields["state"]),
        created_at=number["created_at"],
        started_at=number.get("started_at"),
        finished_at=number.get("finished_at"),
        expires_at=number.get("expires_at"),
        expired="expired" in fields,
        filename=fields["filename"],
        source=fields["source"],
        options=Options.model_validate_json(fields["options"]),
        input=json.loads(fields["input"]),
        progress=_progress(number, in_hand, queue_position),
        output=Output.model_validate_json(fields["output"]) if "output" in fields else None,
        metrics=_metrics(number),
        error=json.loads(fields["error"]) if "error" in fields else None,
    )


def _progress(number: Mapping[str, float], in_hand: int, queue_position: int | None) -> Progress:
    done = int(number.get("frames", 0)) + in_hand
    total = int(number["frames_total"]) if "frames_total" in number else None
    started = number.get("started_at")
    elapsed = number.get("finished_at", time.time()) - started if started else 0.0
    fps = done / elapsed if done and elapsed > 0 else None
    return Progress(
        frames_done=done,
        frames_total=total,
        fraction=min(done / total, 1.0) if total else 0.0,
        fps=fps,
        eta_seconds=max(total - done, 0) / fps if total and fps else None,
        queue_position=queue_position,
    )


def _metrics(number: Mapping[str, float]) -> Metrics:
    return Metrics(
        segments_done=int(number.get("segments_done", 0)),
        segments_total=int(number["segments_total"]) if "segments_total" in number else None,
        attempts_failed=int(number.get("attempts_failed", 0)),
        new_frames=int(number.get("new_frames", 0)),
        scene_cuts=int(number.get("scene_cuts", 0)),
        recomputed_frames=int(number.get("recomputed_frames", 0)),
        vram_peak_bytes=int(number.get("vram_peak_bytes", 0)),
        stage_seconds={
            name.removeprefix("seconds_"): value
            for name, value in number.items()
            if name.startswith("seconds_")
        },
    )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
