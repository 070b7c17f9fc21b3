"""A job as a client sees it."""

from __future__ import annotations

import hashlib

from pydantic import Field

from service.jobs.records import Job, Output, State

POLL_SECONDS = "2"  # Retry-After of a job that has not ended


class ResultView(Output):
    """The finished file as a client sees it, without what is the store's."""

    key: str = Field(exclude=True)
    blocks_sha256: str | None = Field(None, exclude=True)
    frames_sha256: str | None = Field(None, exclude=True)


class JobView(Job):
    """A job as a client sees it."""

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
