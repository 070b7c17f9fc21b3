"""The routes of jobs on record: show, list, cancel and remove."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from service.api.auth import ReaderDep
from service.api.deps import JOB_ID, ChangedJobDep, JobDep, ServiceDep
from service.api.problems import documented
from service.api.views import POLL_SECONDS, JobView
from service.jobs.records import State
from service.jobs.webhooks import MOST_LOGGED, Attempt

router = APIRouter(prefix="/jobs", tags=["jobs"])

METADATA = "metadata."  # begins the query parameters that ask for a job's metadata


class Page(BaseModel):
    """Some jobs, newest first."""

    jobs: list[JobView]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last")


class DeliveryLog(BaseModel):
    """What became of the messages to the job's webhook."""

    attempts: list[Attempt] = Field(description=f"the last ones, at most {MOST_LOGGED}, newest first")


@router.get("", response_model=Page, responses=documented("invalid-request", "redis-unavailable"))
def list_jobs(
    request: Request,
    service: ServiceDep,
    caller: ReaderDep,
    status: Annotated[State | None, Query(description="Only jobs with this status.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=f"^{JOB_ID.pattern}$", description="`next_cursor` of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most jobs of a page, 1 to 200.")] = 50,
    reference: Annotated[str | None, Query(description="Only jobs that were submitted with it.")] = None,
) -> Page:
    """Lists the jobs of the caller, newest first.

    `metadata.KEY=VALUE` in the query, once or for several keys, asks for the jobs with this metadata. A page may hold
    fewer jobs than `limit`, or none: ask on until `next_cursor` is null.
    """
    metadata = {
        name.removeprefix(METADATA): value
        for name, value in request.query_params.items()
        if name.startswith(METADATA)
    }
    jobs, next_cursor = service.jobs.page(
        caller.owner, status, cursor, limit, reference=reference, metadata=metadata
    )
    return Page(jobs=[JobView.of(job) for job in jobs], next_cursor=next_cursor)


@router.get("/{job_id}", response_model=JobView, responses=documented("job-not-found", "redis-unavailable"))
def show(job: JobDep, response: Response) -> JobView:
    """Shows how far a job is, and what came of it."""
    if not job.status.terminal:
        response.headers["Retry-After"] = POLL_SECONDS
    return JobView.of(job)


@router.get(
    "/{job_id}/deliveries",
    response_model=DeliveryLog,
    responses=documented("job-not-found", "redis-unavailable"),
)
def show_deliveries(job: JobDep, service: ServiceDep) -> DeliveryLog:
    """Shows the last attempts at sending the job's events to its webhook."""
    return DeliveryLog(attempts=service.deliveries.log(job.id))


@router.delete(
    "/{job_id}",
    response_model=JobView,
    responses={
        204: {"description": "The job had ended; it and its result are removed."},
        **documented("job-not-found"),
    },
)
def remove(job: ChangedJobDep, service: ServiceDep) -> JobView | Response:
    """Cancels a job that has not ended, and answers with it; removes one that has."""
    if not job.status.terminal:
        return JobView.of(service.jobs.cancel(job.id))
    service.store.delete(f"results/{job.id}/")
    service.jobs.delete(job.id)
    return Response(status_code=204)
