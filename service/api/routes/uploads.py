"""The routes of uploads that arrive before a job is made of them: `submit.collect` takes them from there.

A client sends a large video to the store itself, by a URL; or to the API, in pieces that survive a broken connection
(tus).
"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from service.api import tus, uploads, webhooks
from service.api.auth import Caller, SubmitterDep
from service.api.deps import ServiceDep
from service.api.description import UPLOAD, headers
from service.api.description import tus as tus_headers
from service.api.problems import documented
from service.api.routes.submit import check_capacity, check_space, parser
from service.api.service import Service
from service.jobs.incoming import Upload, expires_at, incoming_key
from service.jobs.names import new_job_id
from service.jobs.problems import Problem

router = APIRouter(prefix="/uploads", tags=["uploads"])

LINK_SECONDS = 3600  # within which a PUT must begin
MOST_PUT_BYTES = 5 * 2**30  # that S3 takes in one request


class UploadLink(BaseModel):
    """Where to send a video, and under which id a job finds it."""

    id: str = Field(description="`upload` of POST /jobs, within a day")
    url: str = Field(
        description="where the video goes: to the store with PUT, which whoever has this URL may; by tus with PATCH, "
        "as `Location` says"
    )
    headers: dict[str, str] = Field(description="headers that each request to `url` must have")
    expires_at: float = Field(
        description="when the PUT must have begun, or the upload by tus is forgotten, in seconds since the epoch"
    )


@router.post(
    "",
    status_code=201,
    response_model=UploadLink,
    openapi_extra=UPLOAD,
    responses={
        201: headers("Location", "Tus-Resumable", "Upload-Offset", "Upload-Expires"),
        **documented(
            "invalid-request",
            "invalid-upload",
            "invalid-option",
            "codec-unavailable",
            "webhook-refused",
            "unsupported-tus-version",
            "upload-too-large",
            "queue-full",
            "quota-exceeded",
            "insufficient-storage",
            "no-upload-links",
            "redis-unavailable",
            "store-unavailable",
        ),
    },
)
async def begin(
    request: Request,
    response: Response,
    service: ServiceDep,
    caller: SubmitterDep,
    size_bytes: Annotated[
        int | None, Query(gt=0, description="The size of the video; the store takes no other.")
    ] = None,
) -> UploadLink:
    """Gives a URL to which a large video is sent with PUT, past this API. `POST /jobs?upload=ID` makes a job of it.

    With the header `Tus-Resumable` it begins a resumable upload by tus 1.0 in place of that, of `Upload-Length` bytes,
    and `Location` says where to send it.

    The query may have the options of the job, as that of POST /jobs: what is wrong with them is refused before the
    video is sent. They are not kept.
    """
    upload = announced(request, service.settings.max_upload_bytes, caller, size_bytes)
    filename = await check_options(request, service, caller)
    upload = upload.model_copy(update={"filename": filename or upload.filename})
    make = begin_link if upload.parts is None else begin_resumable
    link = await run_in_threadpool(make, service, caller, upload)
    if upload.parts is not None:
        response.headers.update(tus.headers(Location=link.url, Upload_Offset=0) | tus.expiry(link.id))
    return link


def announced(request: Request, max_bytes: int, caller: Caller, size_bytes: int | None) -> Upload:
    """The upload that `request` announces; Problem 400, 412, 413 or 422 where it cannot be taken."""
    if "tus-resumable" in request.headers:
        tus.check_version(request)
        return tus.announced(request, caller.owner, max_bytes)
    if size_bytes is None:
        raise Problem(
            "invalid-request",
            "Give `size_bytes` in the query, or the headers Tus-Resumable and Upload-Length.",
        )
    most = min(max_bytes, MOST_PUT_BYTES)
    if size_bytes > most:
        raise uploads.too_large(most)
    return Upload(owner=caller.owner, size_bytes=size_bytes)


async def check_options(request: Request, service: Service, caller: Caller) -> str | None:
    """The `filename` in the query; raises Problem (400, 422) where POST /jobs would refuse the options there."""
    fields = uploads.query_fields(request)
    fields.pop("size_bytes", None)
    filename = fields.pop("filename", None)
    parse = await parser(service)
    _, handling = parse(fields)
    await webhooks.settle(handling, caller, service.settings, service.egress)
    return filename and uploads.clean_filename(filename)


def begin_link(service: Service, caller: Caller, upload: Upload) -> UploadLink:
    """Makes an upload to the store itself; Problem 429, 501 or 507 where there can be none."""
    check_capacity(service, caller, upload.size_bytes)
    upload_id = new_job_id()
    url = service.store.upload_link(incoming_key(upload_id), upload.size_bytes, seconds=LINK_SECONDS)
    if url is None:
        raise Problem(
            "no-upload-links",
            "The store of this service is a folder, which takes no uploads itself; send the video with POST /jobs, or "
            "by tus.",
        )
    record(service, caller, upload_id, upload)
    wanted = {"Content-Length": str(upload.size_bytes)}
    return UploadLink(id=upload_id, url=url, headers=wanted, expires_at=time.time() + LINK_SECONDS)


def begin_resumable(service: Service, caller: Caller, upload: Upload) -> UploadLink:
    """Makes an upload by tus; Problem 429 or 507 where there can be none."""
    check_capacity(service, caller, upload.size_bytes)
    upload_id = new_job_id()
    record(service, caller, upload_id, upload)
    wanted = {"Tus-Resumable": tus.VERSION}
    return UploadLink(
        id=upload_id, url=f"/uploads/{upload_id}", headers=wanted, expires_at=expires_at(upload_id)
    )


def record(service: Service, caller: Caller, upload_id: str, upload: Upload) -> None:
    """Counts the upload against its owner's quota, and puts it on record."""
    service.jobs.charge(caller.owner, caller.quota, upload.size_bytes)
    service.incoming.add(upload_id, upload)


@router.options(
    "",
    status_code=204,
    responses={
        204: headers(
            "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"
        )
    },
)
def capabilities(service: ServiceDep, caller: SubmitterDep) -> Response:
    """Says which version and extensions of tus there are, as headers."""
    return Response(status_code=204, headers=tus.options(service.settings.max_upload_bytes))


@router.head(
    "/{upload_id}",
    response_class=Response,  # without a body
    openapi_extra=tus_headers(),
    responses={
        200: headers("Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Expires"),
        **documented("upload-not-found", "unsupported-tus-version", "redis-unavailable"),
    },
)
def show_offset(upload_id: str, request: Request, service: ServiceDep, caller: SubmitterDep) -> Response:
    """Says how much of a resumable upload has arrived: `Upload-Offset` of `Upload-Length`."""
    tus.check_version(request)
    upload = service.incoming.get(upload_id, caller.owner)
    progress = tus.headers(Upload_Offset=upload.offset, Upload_Length=upload.size_bytes)
    return Response(headers=progress | tus.expiry(upload_id))


@router.patch(
    "/{upload_id}",
    status_code=204,
    openapi_extra=tus_headers("Upload-Offset", "Upload-Checksum"),
    responses={
        204: headers("Tus-Resumable", "Upload-Offset", "Upload-Expires"),
        **documented(
            "invalid-upload",
            "upload-not-found",
            "upload-too-slow",
            "another-offset",
            "unsupported-tus-version",
            "upload-too-large",
            "unsupported-media-type",
            "checksum-mismatch",
            "insufficient-storage",
            "redis-unavailable",
            "store-unavailable",
        ),
    },
)
async def append(upload_id: str, request: Request, service: ServiceDep, caller: SubmitterDep) -> Response:
    """Appends the body to a resumable upload, at `Upload-Offset`."""
    tus.check_version(request)
    space = partial(check_space, service, 0)
    receiver = tus.Receiver(upload_id, caller.owner, service.incoming, service.store, space)
    offset = await receiver.receive(request)
    return Response(status_code=204, headers=tus.headers(Upload_Offset=offset) | tus.expiry(upload_id))


@router.delete(
    "/{upload_id}",
    status_code=204,
    openapi_extra=tus_headers(),
    responses={
        204: headers("Tus-Resumable"),
        **documented("upload-not-found", "unsupported-tus-version", "redis-unavailable", "store-unavailable"),
    },
)
def terminate(upload_id: str, request: Request, service: ServiceDep, caller: SubmitterDep) -> Response:
    """Removes an upload, whole or not, resumable or by a link. Jobs that were made of it keep what they have."""
    tus.check_version(request)
    service.incoming.get(upload_id, caller.owner)
    service.incoming.delete(upload_id)
    service.store.delete(incoming_key(upload_id))
    return Response(status_code=204, headers=tus.headers())
