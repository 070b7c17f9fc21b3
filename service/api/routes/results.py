"""The route that sends the finished file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse

from service.api import ranges
from service.api.deps import JobDep, ServiceDep
from service.api.problems import documented
from service.api.views import POLL_SECONDS
from service.jobs.problems import Problem
from service.jobs.records import Output, State
from service.store import StoreDamaged, StoreMissing

log = logging.getLogger(__name__)

router = APIRouter(prefix="/jobs", tags=["jobs"])

# Bytes of a result up to which its hash is checked before the first byte is sent. A client would take the wait for a
# larger one for a service that hangs; the ETag lets it check the hash itself.
MOST_HASHED = 2 * 2**30


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
