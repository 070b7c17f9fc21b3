"""The routes of jobs on record: show, list, cancel and remove."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from service.api.auth import ReaderDep
from service.api.deps import JOB_ID, ChangedJobDep, JobDep, ServiceDep
from service.api.description import headers
from service.api.problems import documented
from service.api.service import Service
from service.api.views import POLL_SECONDS, JobView, is_named
from service.jobs.problems import Problem
from service.jobs.records import State
from service.jobs.webhooks import MOST_LOGGED, Attempt

router = APIRouter(prefix="/jobs", tags=["jobs"])

MOST_WAIT_SECONDS = 60.0
FILTERS = ("status", "cursor", "limit", "reference")  # query parameters of a list
METADATA = "metadata."  # begins those that ask for a job's metadata


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
    status: Annotated[
        Literal["queued", "running", "succeeded", "failed", "cancelled"] | None,
        Query(description="Only jobs with this status."),
    ] = None,
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
    state = None if status is None else State(status)
    jobs, next_cursor = service.jobs.page(
        caller.owner, state, cursor, limit, reference=reference, metadata=_metadata(request.query_params)
    )
    return Page(jobs=[JobView.of(job) for job in jobs], next_cursor=next_cursor)


def _metadata(query: Mapping[str, str]) -> dict[str, str]:
    """The metadata that the query of a list asks for; Problem 422 where it asks for what there is not."""
    others = {name: value for name, value in query.items() if name not in FILTERS}
    unknown = [name for name in others if not name.startswith(METADATA)]
    if unknown:
        raise Problem(
            "invalid-request",
            f"There is no query parameter {unknown[0][:100]!r}; jobs are found by {', '.join(FILTERS)} and "
            f"{METADATA}KEY.",
        )
    return {name.removeprefix(METADATA): value for name, value in others.items()}


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses={
        200: headers("ETag", "Retry-After"),
        304: {"description": "Not changed: If-None-Match names its ETag."} | headers("ETag", "Retry-After"),
        **documented("invalid-request", "job-not-found", "redis-unavailable"),
    },
)
async def show(
    request: Request,
    job: JobDep,
    caller: ReaderDep,
    service: ServiceDep,
    response: Response,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=MOST_WAIT_SECONDS,
            allow_inf_nan=False,
            description="Seconds, up to 60, that the answer may take: it comes when the job's status is another or, "
            "with If-None-Match, its ETag.",
        ),
    ] = 0,
    if_none_match: Annotated[
        str | None, Header(description="ETag of what is known; 304 where that holds.")
    ] = None,
) -> JobView | Response:
    """Shows how far a job is, and what came of it.

    The answer's weak ETag changes with the job, and with each whole percent of its progress.
    """
    view = JobView.of(job)
    if wait:
        view = await _changed(view, service, caller.owner, request, wait)
    response.headers.update(
        {"ETag": view.etag} | ({} if view.status.terminal else {"Retry-After": POLL_SECONDS})
    )
    if is_named(view.etag, if_none_match):
        return Response(status_code=304, headers=response.headers)
    return view


async def _changed(known: JobView, service: Service, owner: str, request: Request, seconds: float) -> JobView:
    """The job once it is no longer as it is known, or over; or the time is up, or nobody waits for the answer."""
    etag = request.headers.get("if-none-match")
    end = anyio.current_time() + seconds
    with service.feed.waiting(known.id) as news:
        gone = asyncio.create_task(_gone(request))
        gone.add_done_callback(lambda _: news.set())
        try:
            while True:
                news.clear()
                view = JobView.of(await run_in_threadpool(service.jobs.show, known.id, owner=owner))
                same = view.status is known.status if etag is None else is_named(view.etag, etag)
                left = end - anyio.current_time()
                if not same or view.status.terminal or left <= 0 or service.feed.closed or gone.done():
                    return view
                with anyio.move_on_after(left):
                    await news.wait()
        finally:
            gone.cancel()


async def _gone(request: Request) -> None:
    """Returns once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.get(
    "/{job_id}/deliveries",
    response_model=DeliveryLog,
    responses=documented("job-not-found", "redis-unavailable"),
)
def show_deliveries(job: JobDep, service: ServiceDep) -> DeliveryLog:
    """Shows the last attempts at sending the job's events to its webhook."""
    return DeliveryLog(attempts=service.deliveries.log(job.id))


@router.post("/{job_id}/cancel", response_model=JobView, responses=documented("job-not-found"))
def cancel(job: ChangedJobDep, service: ServiceDep) -> JobView:
    """Cancels a job that has not ended, and answers with the job; one that has ended stays as it is."""
    return JobView.of(service.jobs.cancel(job.id))


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
