"""A job as a client sees it."""

from __future__ import annotations

import hashlib

from pydantic import ConfigDict, Field, JsonValue

from service.jobs.records import Job, Output, State

POLL_SECONDS = "2"  # Retry-After of a job that has not ended


EXAMPLE: dict[str, JsonValue] = {
    "id": "019ad57e1c80a3d74c1f2b9e6a05",
    "status": "running",
    "created_at": 1764550000.0,
    "started_at": 1764550001.25,
    "filename": "clip.mp4",
    "options": {"target_fps": "60", "model": "auto", "scene_threshold": 0.3, "quality": 18, "audio": "copy"},
    "reference": "order 7",
    "metadata": {"user": "42"},
    "input": {"width": 1920, "height": 1080, "frames": 240, "frame_rate": "24"},
    "progress": {
        "frames_done": 150,
        "frames_total": 600,
        "fraction": 0.25,
        "fps": 24.0,
        "eta_seconds": 18.75,
    },
    "metrics": {"segments_done": 1, "segments_total": 7},
    "links": {"self": "/jobs/019ad57e1c80a3d74c1f2b9e6a05"},
}


class ResultView(Output):
    """The finished file as a client sees it, without what is the store's."""

    key: str = Field(exclude=True)
    blocks_sha256: str | None = Field(None, exclude=True)
    frames_sha256: str | None = Field(None, exclude=True)


class JobView(Job):
    """A job as a client sees it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    source: str = Field(exclude=True)
    output: ResultView | None = None
    links: dict[str, str] = Field(
        description="`self`; `preview` of a job that runs; `result` while there is one to fetch, and `frames` where "
        "it is known which of them are new; `deliveries` of a job with a webhook"
    )

    @classmethod
    def of(cls, job: Job) -> JobView:
        """The view of `job`, with links to what can be asked about it."""
        links = {"self": f"/jobs/{job.id}"}
        if job.status is State.RUNNING:
            links["preview"] = f"/jobs/{job.id}/preview"
        if job.status is State.SUCCEEDED and not job.expired:
            links["result"] = f"/jobs/{job.id}/result"
            if job.output and job.output.frames_sha256:
                links["frames"] = f"/jobs/{job.id}/result/frames"
        if job.webhook_url:
            links["deliveries"] = f"/jobs/{job.id}/deliveries"
        return cls(**job.model_dump(), links=links)

    @property
    def etag(self) -> str:
        """A weak ETag: another one where the job, or a whole percent of its progress, is another.

        Rates, and what a job that is not over has cost so far, change at every look and are no part of it.
        """
        moving = set() if self.status.terminal else {"progress", "metrics"}
        percent = int(100 * self.progress.fraction)
        content = f"{percent} {self.progress.queue_position} {self.model_dump_json(exclude=moving)}"
        return f'W/"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'


def is_named(etag: str, if_none_match: str | None) -> bool:
    """Whether the header If-None-Match names `etag`; the comparison is weak, as RFC 9110 has it."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return if_none_match.strip() == "*" or etag.removeprefix("W/") in tags
