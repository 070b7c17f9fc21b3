"""The routes that send the finished file, and say what its frames are."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

from service.api import ranges
from service.api.deps import JobDep, ServiceDep
from service.api.description import FILE, PARTS, headers
from service.api.problems import documented
from service.api.views import POLL_SECONDS, is_named
from service.jobs.problems import Problem
from service.jobs.records import Output, State, frames_key
from service.store import Store, Stored, StoreDamaged, StoreMissing
from service.store.blocks import read

log = logging.getLogger(__name__)

router = APIRouter(prefix="/jobs", tags=["jobs"])

LINK_SECONDS = 900  # within which a download from the store must begin
#: What a browser wants to show within a page. The policy of the web page lets no other host in.
SHOWN = ("video", "image")


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


def get_link(request: Request, output: OutputDep, service: ServiceDep) -> str | None:
    """Where the store itself sends the result; None where this API does. Raises Problem 410 as `get_file` does."""
    is_shown = request.headers.get("sec-fetch-dest") in SHOWN
    if not service.settings.store_redirect or request.method == "HEAD" or is_shown:
        return None
    with named_damage():
        return service.store.link(
            Stored(output.key, output.size_bytes, output.sha256),
            seconds=LINK_SECONDS,
            media_type=output.media_type,
            disposition=disposition(output.filename),
        )


LinkDep = Annotated[str | None, Depends(get_link)]


async def get_file(output: OutputDep, service: ServiceDep, link: LinkDep) -> AsyncIterator[Path | None]:
    """The path of the opened result, checked whole; None where it is so large that it is checked block by block, or
    where the store itself sends it.

    The file stays valid until the answer is sent, even where the job is removed. Raises Problem 410 where the result is
    gone, or is not what the worker put into the store.
    """
    if link or output.blocks_sha256 and output.size_bytes > service.store.whole_bytes:
        yield None
        return
    with ExitStack() as files:
        path = await anyio.to_thread.run_sync(
            open_result, service.store, output, files, limiter=service.moving
        )
        yield path


def open_result(store: Store, output: Output, files: ExitStack) -> Path:
    """The path of a result that is open until `files` closes; raises Problem 410."""
    with named_damage():
        fetched = store.fetch(output.key, size_bytes=output.size_bytes, sha256=output.sha256)
        file = files.enter_context(files.enter_context(fetched).open("rb"))
        return Path(f"/proc/self/fd/{file.fileno()}")


@contextmanager
def named_damage() -> Iterator[None]:
    """Makes the Problem of what is wrong with a stored result."""
    try:
        yield
    except (StoreMissing, FileNotFoundError):
        raise expired() from None
    except StoreDamaged as error:
        log.error("%s", error)
        raise Problem("result-damaged", f"{error} Submit the video again for a new result.") from None


def expired() -> Problem:
    """The problem of a result that the service no longer has."""
    return Problem("result-expired", "The result is no longer kept; submit the video again.")


@router.head("/{job_id}/result", include_in_schema=False)
@router.get(
    "/{job_id}/result",
    response_class=FileResponse,
    openapi_extra=PARTS,
    responses={
        200: {"description": "The file, whole.", "content": FILE} | headers("ETag"),
        206: {"description": "The ranges asked for.", "content": FILE} | headers("ETag"),
        304: {"description": "Not changed: If-None-Match names its ETag, the SHA-256 of its content."}
        | headers("ETag"),
        307: {"description": "The file is in the store at this Location, for a quarter of an hour."}
        | headers("Location"),
        **documented(
            "invalid-range",
            "job-not-found",
            "range-not-satisfiable",
            "job-not-finished",
            "job-failed",
            "job-cancelled",
            "result-expired",
            "result-damaged",
            "redis-unavailable",
            "store-unavailable",
        ),
    },
)
def fetch_result(
    request: Request,
    output: OutputDep,
    service: ServiceDep,
    link: LinkDep,
    path: Annotated[Path | None, Depends(get_file)],
) -> Response:
    """Sends the finished file."""
    etag = f'"{output.sha256}"'
    if is_named(etag, request.headers.get("if-none-match")):
        return Response(status_code=304, headers={"ETag": etag})
    if link:
        return Response(status_code=307, headers={"Location": link, "Cache-Control": "no-store"})
    wanted = ranges.settle(request, output.size_bytes, etag)
    if path is None:
        return send_in_blocks(request, output, service.store, wanted)
    return FileResponse(path, headers={"ETag": etag}, media_type=output.media_type, filename=output.filename)


class Frames(BaseModel):
    """What each frame of a result is, and when it is shown."""

    frames: str = Field(
        description="a letter for each: `s` is a source frame, untouched; `n` is new; `N` is new, too, and shown where "
        "a source frame comes that the result has not; `h` holds or mixes the frames around it",
        examples=["snnsnnsnnshh"],
    )
    start: float = Field(description="when the first is shown, in seconds")
    rate: float | None = Field(description="frames a second; null where they are not evenly spaced")
    times: list[float] | None = Field(description="when each is shown, in seconds; null where `rate` says it")


@router.get(
    "/{job_id}/result/frames",
    response_model=Frames,
    responses={
        200: headers("ETag"),
        304: {"description": "Not changed: If-None-Match names its ETag."} | headers("ETag"),
        **documented(
            "job-not-found",
            "frames-unknown",
            "job-not-finished",
            "job-failed",
            "job-cancelled",
            "result-expired",
            "result-damaged",
            "redis-unavailable",
            "store-unavailable",
        ),
    },
)
async def fetch_frames(
    output: OutputDep,
    service: ServiceDep,
    if_none_match: Annotated[
        str | None, Header(description="ETag of what is known; 304 where that holds.")
    ] = None,
) -> Response:
    """Says which frames of the finished file are new, and which are the source's."""
    if output.frames_sha256 is None:
        raise Problem(
            "frames-unknown",
            "The result is of an earlier release, which did not note it. Submit the video again to have it noted.",
        )
    etag = {"ETag": f'"{output.frames_sha256}"'}
    if is_named(etag["ETag"], if_none_match):
        return Response(status_code=304, headers=etag)
    content = await anyio.to_thread.run_sync(read_frames, service.store, output, limiter=service.moving)
    return Response(content, headers=etag, media_type="application/json")


def read_frames(store: Store, output: Output) -> bytes:
    """The document of the result's frames; raises Problem 410."""
    with named_damage(), store.fetch(frames_key(output.key), sha256=output.frames_sha256) as path:
        return path.read_bytes()


def send_in_blocks(
    request: Request, output: Output, store: Store, wanted: list[tuple[int, int]]
) -> StreamingResponse:
    """Sends a large result, each block of which is checked before it leaves.

    One range of it is sent, if `wanted`; of several the whole file is, as RFC 9110 allows. Where a later block turns
    out to be damaged, the connection is cut, and whoever asks for the rest is told why.
    """
    is_part = len(wanted) == 1
    first, last = wanted[0] if is_part else (0, output.size_bytes - 1)
    headers = {
        "ETag": f'"{output.sha256}"',
        "Accept-Ranges": "bytes",
        "Content-Length": str(last + 1 - first),
        "Content-Disposition": disposition(output.filename),
    }
    if is_part:
        headers["Content-Range"] = f"bytes {first}-{last}/{output.size_bytes}"
    assert output.blocks_sha256 is not None
    blocks = read(store, output.key, output.blocks_sha256, output.size_bytes, first, last + 1)
    with named_damage():
        body = [] if request.method == "HEAD" else chain([next(blocks)], blocks)
        if store.size(output.key) != output.size_bytes:
            raise StoreDamaged(output.key, "has another size than it had")
    return StreamingResponse(body, 206 if is_part else 200, headers, media_type=output.media_type)


def disposition(filename: str) -> str:
    """The Content-Disposition header of a file to save as `filename`."""
    quoted = quote(filename, safe="")
    return (
        f'attachment; filename="{filename}"'
        if quoted == filename
        else f"attachment; filename*=utf-8''{quoted}"
    )
