"""The route that shows what a running job makes."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Response

from service.api.deps import JobDep, ServiceDep
from service.api.description import headers
from service.api.problems import documented
from service.api.views import POLL_SECONDS, is_named
from service.jobs.problems import Problem
from service.jobs.records import Job, State

router = APIRouter(prefix="/jobs", tags=["jobs"])

MEDIA_TYPE = "image/jpeg"
#: A client that is generated knows no pictures, but bytes.
PICTURE = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in ("application/octet-stream", MEDIA_TYPE)
}


@router.get(
    "/{job_id}/preview",
    response_class=Response,
    responses={
        200: {
            "description": "The picture.",
            "content": PICTURE,
        }
        | headers("ETag"),
        304: {"description": "There is no newer one: If-None-Match names its ETag."} | headers("ETag"),
        **documented("job-not-found", "no-preview", "redis-unavailable"),
    },
)
def fetch_preview(
    job: JobDep,
    service: ServiceDep,
    if_none_match: Annotated[
        str | None, Header(description="ETag of the picture that is known; 304 where there is no newer one.")
    ] = None,
) -> Response:
    """Shows the newest new frame of a running job: to the left the source frame before it, to the right the new one.

    Workers make such pictures while somebody asks for them, one in two seconds. So the first request finds none. They
    are gone once the job has ended.
    """
    picture = service.jobs.picture(job.id) if job.status is State.RUNNING else None
    if picture is None:
        raise no_preview(job)
    known = {"ETag": f'"{hashlib.sha256(picture).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
    if is_named(known["ETag"], if_none_match):
        return Response(status_code=304, headers=known)
    return Response(picture, headers=known, media_type=MEDIA_TYPE)


def no_preview(job: Job) -> Problem:
    """The problem of a job of which there is no picture now."""
    if job.status.terminal:
        return Problem(
            "no-preview", f"The job is {job.status.value}; GET /jobs/{job.id} says what came of it."
        )
    return Problem(
        "no-preview",
        f"The job is {job.status.value}, and no new frame has been made since you asked. Ask again in "
        f"{POLL_SECONDS} seconds.",
        headers={"Retry-After": POLL_SECONDS},
    )
