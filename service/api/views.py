"""A job as a client sees it."""

from __future__ import annotations

from pydantic import Field

from service.jobs.records import Job, Output, State

POLL_SECONDS = "2"  # Retry-After of a job that has not ended


class ResultView(Output):
    """The finished file as a client sees it, without what is the store's."""

    key: str = Field(exclude=True)
    blocks_sha256: str | None = Field(None, exclude=True)


class JobView(Job):
    """A job as a client sees it."""

    source: str = Field(exclude=True)
    output: ResultView | None = None
    links: dict[str, str] = Field(
        description="`self`; `result` while there is one to fetch; `deliveries` of a job with a webhook"
    )

    @classmethod
    def of(cls, job: Job) -> JobView:
        """The view of `job`, with links to what can be asked about it."""
        links = {"self": f"/jobs/{job.id}"}
        if job.status is State.SUCCEEDED and not job.expired:
            links["result"] = f"/jobs/{job.id}/result"
        if job.webhook_url:
            links["deliveries"] = f"/jobs/{job.id}/deliveries"
        return cls(**job.model_dump(), links=links)
