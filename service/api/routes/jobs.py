"""The routes of jobs: submit, show, list, fetch the result, cancel and remove."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from service.api import idempotency, ranges, uploads
from service.api.deps import JOB_ID, JobDep, Service, ServiceDep
from service.api.options import parse_options
from service.api.probe import probe
from service.api.problems import documented
from service.api.routes.openapi import SUBMISSION
from service.jobs.machine import PLAN
from service.jobs.options import SHIPPED_MODELS
from service.jobs.problems import Problem
from service.jobs.records import Job, Output, State
from service.store import StoreDamaged, StoreMissing

log = logging.getLogger(__name__)

router = APIRouter(prefix="/jobs", tags=["jobs"])

POLL_SECONDS = "2"  # Retry-After of a job that has not ended
# Bytes of a result up to which its hash is checked before the first byte is sent. A client would take the wait for a
# larger one for a service that hangs; the ETag lets it check the hash itself.
MOST_HASHED = 2 * 2**30


class ResultView(Output):
    """The finished file as a client sees it, without its place in the store."""

    key: str = Field(exclude=True)


class JobView(Job):
    """A job as a client sees it."""

    source: str = Field(exclude=True)
    output: ResultView | None = None
    links: dict[str, str] = Field(description="`self`, and `result` while there is one to fetch")

    @classmethod
    def of(cls, job: Job) -> JobView:
        """The view of `job`, with links to what can be asked about it."""
        links = {"self": f"/jobs/{job.id}"}
        if job.status is State.SUCCEEDED and not job.expired:
            links["result"] = f"/jobs/{job.id}/result"
        return cls(**job.model_dump(), links=links)


class Page(BaseModel):
    """Some jobs, newest first."""

    jobs: list[JobView]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last")


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    openapi_extra=SUBMISSION,
    responses=documented(
        "invalid-upload",
        "invalid-idempotency-key",
        "upload-too-slow",
        "idempotency-key-in-use",
        "job-gone",
        "upload-too-large",
        "unsupported-media-type",
        "unsupported-format",
        "invalid-option",
        "idempotency-key-reused",
        "unreadable-video",
        "damaged-video",
        "no-video-stream",
        "limit-exceeded",
        "queue-full",
        "redis-unavailable",
        "machine-failed",
        "insufficient-storage",
    ),
)
async def submit(request: Request, response: Response, service: ServiceDep) -> JobView:
    """Takes a video and queues it. The answer comes once the upload is safe on disk and the job on record.

    A request that is sent again under the same `Idempotency-Key` within 24 hours is answered with the job of the first.
    """
    job = await take(request, service)
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers["Retry-After"] = POLL_SECONDS
    return JobView.of(job)


async def take(request: Request, service: Service) -> Job:
    """Receives the video of `request`, looks into it, and makes a job of it; refuses unread what can be.

    Raises Problem with the statuses that `submit` documents.
    """
    uploads.check_headers(request, service.settings.max_upload_bytes)
    async with idempotency.hold(service.redis, request.headers.get("idempotency-key")) as key:
        if not await run_in_threadpool(key.binding):
            await run_in_threadpool(check_capacity, service, uploads.content_length(request))
        models = await run_in_threadpool(models_served, service)
        async with contextmanager_in_threadpool(service.store.scratch()) as folder:
            upload = await uploads.receive(
                request,
                folder / "upload",
                max_bytes=service.settings.max_upload_bytes,
                check_space=lambda: check_space(service, 0),
                parse=partial(parse_options, models=models),
            )
            if binding := await run_in_threadpool(key.binding):
                return await run_in_threadpool(replay, service, binding, upload)
            facts = await anyio.to_thread.run_sync(
                probe, upload.path, service.settings, upload.options, limiter=service.probing
            )
            return await run_in_threadpool(accept, service, key, upload, facts)


def check_capacity(service: Service, length: int | None) -> None:
    """Raises Problem 429 or 507 where one more job, of `length` bytes, cannot be taken."""
    waiting = service.jobs.counts()[State.QUEUED]
    if waiting >= service.settings.max_queued_jobs:
        raise Problem(
            "queue-full",
            f"{waiting} jobs are waiting, as many as DAIN_MAX_QUEUED_JOBS allows; try again in 30 seconds.",
            headers={"Retry-After": "30"},
        )
    check_space(service, length or 0)


def models_served(service: Service) -> list[str]:
    """The models that a job may name: those that come with the project, and what else the living workers have."""
    return sorted({*SHIPPED_MODELS}.union(*(worker.models for worker in service.workers.all())))


def check_space(service: Service, length: int) -> None:
    """Raises Problem 507 where `length` more bytes in the store would leave less free than is to be kept."""
    if service.store.free_bytes() < service.settings.min_free_bytes + length:
        raise uploads.no_space()


def replay(service: Service, binding: idempotency.Binding, upload: uploads.Upload) -> Job:
    """The job of `binding`; Problem 422 or 410 where `upload` is another request, or the job was removed."""
    if not upload.has_fingerprint(binding.fingerprint):
        raise Problem(
            "idempotency-key-reused",
            "The Idempotency-Key came with another video or other options before; use a new key for a new request.",
        )
    try:
        return service.jobs.show(binding.job_id)
    except Problem:
        raise Problem(
            "job-gone", f"The job {binding.job_id} of this key was removed; use a new key to submit it again."
        ) from None


def accept(service: Service, key: idempotency.Key, upload: uploads.Upload, facts: dict[str, Any]) -> Job:
    """Makes the upload durable, records the job, and queues it; returns the job.

    The order matters: whatever stops this halfway, no job is on record without its upload.
    """
    job_id = service.jobs.new_id()
    source = f"uploads/{job_id}"
    key.check()
    service.store.put(upload.path, source, sha256=upload.sha256)
    job = service.jobs.create(
        job_id,
        source=source,
        source_sha256=upload.sha256,
        filename=upload.filename,
        options=upload.options,
        input={name: value for name, value in facts.items() if name != "version"},
        facts=facts,
        notes=facts.get("notes", ()),
        also=lambda transaction: key.bind(transaction, idempotency.Binding(job_id, upload.fingerprint)),
    )
    try:
        service.queue.enqueue(job_id, PLAN)
    except RedisError as error:  # it is on record: the janitor queues it
        log.warning("job %s could not be queued yet: %r", job_id, error)
    return job


@router.get("", response_model=Page, responses=documented("invalid-request", "redis-unavailable"))
def list_jobs(
    service: ServiceDep,
    status: Annotated[State | None, Query(description="Only jobs with this status.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=f"^{JOB_ID.pattern}$", description="`next_cursor` of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most jobs of a page, 1 to 200.")] = 50,
) -> Page:
    """Lists jobs, newest first."""
    jobs, next_cursor = service.jobs.page(status, cursor, limit)
    return Page(jobs=[JobView.of(job) for job in jobs], next_cursor=next_cursor)


@router.get("/{job_id}", response_model=JobView, responses=documented("job-not-found", "redis-unavailable"))
def show(job: JobDep, response: Response) -> JobView:
    """Shows how far a job is, and what came of it."""
    if not job.status.terminal:
        response.headers["Retry-After"] = POLL_SECONDS
    return JobView.of(job)


@router.delete(
    "/{job_id}",
    response_model=JobView,
    responses={
        204: {"description": "The job had ended; it and its result are removed."},
        **documented("job-not-found"),
    },
)
def remove(job: JobDep, service: ServiceDep) -> JobView | Response:
    """Cancels a job that has not ended, and answers with it; removes one that has."""
    if not job.status.terminal:
        return JobView.of(service.jobs.cancel(job.id))
    service.store.delete(f"results/{job.id}/")
    service.jobs.delete(job.id)
    return Response(status_code=204)


def get_output(job: JobDep) -> Output:
    """The result of a job; raises Problem 409 or 410, which says why there is none to fetch."""
    if job.expired:
        raise expired()
    if job.status is State.FAILED:
        detail = (job.error or {}).get("detail", "See the job.")
        raise Problem("job-failed", f"There is no result: {detail}", error=job.error)
    if job.status is State.CANCELLED:
        raise Problem("job-cancelled", "There is no result; submit the video again.")
    if job.output is None:
        raise Problem(
            "job-not-finished",
            f"The job is {job.status.value}; ask GET /jobs/{job.id} until it has succeeded.",
            headers={"Retry-After": POLL_SECONDS},
        )
    return job.output


OutputDep = Annotated[Output, Depends(get_output)]


def get_file(output: OutputDep, service: ServiceDep) -> Iterator[Path]:
    """The path of the opened result. It stays valid until the answer is sent, even where the job is removed.

    Raises Problem 410 where the result is gone, and 500 where the store has damaged it.
    """
    try:
        sha256 = output.sha256 if output.size_bytes <= MOST_HASHED else None
        stored = service.store.fetch(output.key, size_bytes=output.size_bytes, sha256=sha256)
        with stored as path, path.open("rb") as file:
            yield Path(f"/proc/self/fd/{file.fileno()}")
    except (StoreMissing, FileNotFoundError):
        raise expired() from None
    except StoreDamaged as error:
        log.error("%s", error)
        raise Problem("stored-file-damaged", f"{error} Submit the video again for a new result.") from None


def expired() -> Problem:
    """The problem of a result that the service no longer has."""
    return Problem("result-expired", "The result is no longer kept; submit the video again.")


@router.head("/{job_id}/result", include_in_schema=False)
@router.get(
    "/{job_id}/result",
    response_class=FileResponse,
    responses={
        200: {"description": "The file, whole.", "content": {"video/mp4": {}}},
        206: {"description": "The ranges asked for."},
        304: {"description": "Not changed: If-None-Match names its ETag, the SHA-256 of its content."},
        **documented(
            "invalid-range",
            "job-not-found",
            "range-not-satisfiable",
            "job-not-finished",
            "job-failed",
            "job-cancelled",
            "result-expired",
            "stored-file-damaged",
            "redis-unavailable",
        ),
    },
)
def fetch_result(request: Request, output: OutputDep, path: Annotated[Path, Depends(get_file)]) -> Response:
    """Sends the finished file."""
    etag = f'"{output.sha256}"'
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers={"ETag": etag})
    ranges.settle(request, path.stat().st_size, etag)
    return FileResponse(path, headers={"ETag": etag}, media_type=output.media_type, filename=output.filename)


def matches(header: str | None, etag: str) -> bool:
    """Whether the If-None-Match header `header` names `etag`; the comparison is weak, as RFC 9110 has it."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))
