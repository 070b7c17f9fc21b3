"""The route that lets a client send a large video to the store itself. `submit.collect` takes it from there."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from service.api import uploads
from service.api.auth import SubmitterDep
from service.api.deps import ServiceDep
from service.api.problems import documented
from service.api.routes.submit import check_capacity
from service.jobs.incoming import incoming_key
from service.jobs.machine import new_job_id
from service.jobs.problems import Problem

router = APIRouter(prefix="/uploads", tags=["uploads"])

LINK_SECONDS = 3600  # within which a PUT must begin
MOST_PUT_BYTES = 5 * 2**30  # that S3 takes in one request


class UploadLink(BaseModel):
    """Where to send a video, and under which id a job finds it."""

    id: str = Field(description="`upload` of POST /jobs, within a day")
    url: str = Field(description="PUT the video here; whoever has this URL may")
    headers: dict[str, str] = Field(description="headers that the PUT must have")
    expires_at: float = Field(description="when the PUT must have begun, in seconds since the epoch")


@router.post(
    "",
    status_code=201,
    responses=documented(
        "invalid-request",
        "upload-too-large",
        "queue-full",
        "quota-exceeded",
        "insufficient-storage",
        "no-upload-links",
        "redis-unavailable",
        "store-unavailable",
    ),
)
def begin(
    service: ServiceDep,
    caller: SubmitterDep,
    size_bytes: Annotated[int, Query(gt=0, description="The size of the video; the store takes no other.")],
) -> UploadLink:
    """Gives a URL to which a large video is sent with PUT, past this API. `POST /jobs?upload=ID` makes a job of it."""
    most = min(service.settings.max_upload_bytes, MOST_PUT_BYTES)
    if size_bytes > most:
        raise uploads.too_large(most)
    check_capacity(service, caller, size_bytes)
    upload_id = new_job_id()
    url = service.store.upload_link(incoming_key(upload_id), size_bytes, seconds=LINK_SECONDS)
    if url is None:
        raise Problem(
            "no-upload-links",
            "The store of this service is a folder, which takes no uploads itself; send the video with POST /jobs.",
        )
    service.incoming.add(upload_id, caller.owner, size_bytes)
    headers = {"Content-Length": str(size_bytes)}
    return UploadLink(id=upload_id, url=url, headers=headers, expires_at=time.time() + LINK_SECONDS)
