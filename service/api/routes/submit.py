"""The route that takes a video and makes a job of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from redis.exceptions import RedisError

from service import traces
from service.api import idempotency, sources, uploads, webhooks
from service.api.auth import Caller, SubmitterDep
from service.api.deps import ServiceDep
from service.api.description import SUBMISSION, headers
from service.api.options import parse_request
from service.api.probe import first_frame, probe
from service.api.problems import documented
from service.api.service import Service
from service.api.views import POLL_SECONDS, JobView
from service.jobs.formats import CODECS, COMMON_CODECS
from service.jobs.incoming import incoming_key, join
from service.jobs.keys import Quota
from service.jobs.names import PLAN
from service.jobs.notes import Note
from service.jobs.options import SHIPPED_MODELS, Handling
from service.jobs.problems import Problem, figure
from service.jobs.records import Job, Origin, State
from service.jobs.work import Work
from service.jobs.workers import WorkerRecord
from service.logs import request_id
from service.settings import Settings
from service.store import StoreDamaged, StoreMissing
from service.store.hashes import hash_file

log = logging.getLogger(__name__)

router = APIRouter(prefix="/jobs", tags=["jobs"])

NAMED = "upload"  # what the query calls an upload that the store has already
#: Why a video is not taken, be it for a job or for an estimate.
REFUSALS = (
    "invalid-upload",
    "upload-too-slow",
    "upload-not-found",
    "upload-missing",
    "upload-too-large",
    "unsupported-media-type",
    "unsupported-format",
    "invalid-option",
    "codec-unavailable",
    "webhook-refused",
    "source-refused",
    "source-unreachable",
    "source-too-large",
    "unreadable-video",
    "damaged-video",
    "no-video-stream",
    "limit-exceeded",
    "loss-refused",
    "rate-limited",
    "quota-exceeded",
    "too-much-work",
    "queue-full",
    "too-many-uploads",
    "busy",
    "redis-unavailable",
    "store-unavailable",
    "machine-failed",
    "insufficient-storage",
)


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    openapi_extra=SUBMISSION,
    responses={
        202: headers("Location", "Retry-After"),
        **documented(
            *REFUSALS,
            "invalid-idempotency-key",
            "idempotency-key-in-use",
            "job-gone",
            "idempotency-key-reused",
        ),
    },
)
async def submit(request: Request, response: Response, service: ServiceDep, caller: SubmitterDep) -> JobView:
    """Takes a video and queues it. The answer comes once the upload is safe on disk and the job on record.

    A request that is sent again under the same `Idempotency-Key` within 24 hours is answered with the job of the first.
    """
    job = await take(request, service, caller)
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers["Retry-After"] = POLL_SECONDS
    return JobView.of(job)


async def take(request: Request, service: Service, caller: Caller) -> Job:
    """Receives the video that `caller` sends, looks into it, and makes a job of it; refuses unread what can be.

    Raises Problem with the statuses that `submit` documents.
    """
    check_head(request, service)
    async with idempotency.hold(service.redis, request.headers.get("idempotency-key"), caller.owner) as key:
        if not await run_in_threadpool(key.binding):
            service.looks.check(caller.owner)
            await run_in_threadpool(check_capacity, service, caller, bytes_to_come(request))
        if named := request.query_params.get("webhook_url"):
            await webhooks.check(named, service.settings, service.egress)
        async with AsyncExitStack() as files:
            upload = await receive(request, service, caller, files)
            if binding := await run_in_threadpool(key.binding):
                return await run_in_threadpool(replay, service, binding, upload, caller)
            handling = await webhooks.settle(upload.handling, caller, service.settings, service.egress)
            upload, facts = await examine(request, service, upload, caller)
            return await anyio.to_thread.run_sync(
                accept, service, key, upload, handling, facts, caller, limiter=service.moving
            )


def bytes_to_come(request: Request) -> int:
    """The bytes that `request` brings, as announced: at least 1, and 0 where the store has the upload."""
    return 0 if NAMED in request.query_params else uploads.content_length(request) or 1


def check_head(request: Request, service: Service) -> None:
    """Raises Problem (400, 413, 415) where the head of `request` shows that its body cannot be taken."""
    if NAMED not in request.query_params:
        uploads.check_headers(request, service.settings.max_upload_bytes)


async def receive(
    request: Request, service: Service, caller: Caller, files: AsyncExitStack
) -> uploads.Upload:
    """The upload that comes with `request`, or that the store has and `request` names. It is here until `files` closes.

    Raises Problem as `uploads.receive` and `collect` do.
    """
    parse = await parser(service)
    if NAMED in request.query_params:
        return await collect(request, service, caller, parse, files)
    folder = await files.enter_async_context(contextmanager_in_threadpool(service.store.scratch()))
    return await uploads.receive(
        request,
        folder / "upload",
        max_bytes=service.settings.max_upload_bytes,
        check_space=partial(check_space, service, 0),
        parse=parse,
    )


async def parser(service: Service) -> uploads.Parse:
    """What reads the fields of a request, and refuses what no living worker can do."""
    workers = await run_in_threadpool(service.workers.all)
    return partial(parse_request, models=models_served(workers), codecs=codecs_served(workers))


async def collect(
    request: Request, service: Service, caller: Caller, parse: uploads.Parse, files: AsyncExitStack
) -> uploads.Upload:
    """The upload in the store that `request` names, as if it had come with it. It is here until `files` closes.

    Raises Problem (400, 404, 409, 422, 507) where there is none of the size that was announced, or an option is wrong.
    """
    fields, mask = await uploads.receive_beside(request, parse)
    upload_id = fields.pop(NAMED)
    filename = fields.pop("filename", None) or uploads.disposition_filename(request)
    options, handling = parse(fields)
    incoming = await run_in_threadpool(service.incoming.get, upload_id, caller.owner)
    size_bytes = incoming.size_bytes
    await run_in_threadpool(check_space, service, size_bytes)
    try:
        if incoming.parts is None:
            fetched = service.store.fetch(incoming_key(upload_id), size_bytes=size_bytes)
            path = await files.enter_async_context(contextmanager_in_threadpool(fetched))
            sha256 = await run_in_threadpool(hash_file, path)
        elif incoming.offset < size_bytes:
            raise Problem(
                "upload-missing",
                f"{incoming.offset} of the {size_bytes} bytes of the upload {upload_id} have arrived; send the others.",
            )
        else:
            folder = contextmanager_in_threadpool(service.store.scratch())
            path = await files.enter_async_context(folder) / "upload"
            sha256 = await run_in_threadpool(join, service.store, incoming.parts, path)
    except StoreMissing:
        raise Problem(
            "upload-missing", f"Nothing has arrived of the upload {upload_id}; send it first."
        ) from None
    except StoreDamaged as error:
        raise uploads.invalid_upload(f"The upload {upload_id} {error.reason}; send it again.") from None
    filename = uploads.clean_filename(filename or incoming.filename)
    options = uploads.with_mask(options, mask)
    return uploads.Upload(path, size_bytes, sha256, filename, options, handling, counted=True, mask=mask)


async def examine(
    request: Request, service: Service, upload: uploads.Upload, caller: Caller
) -> tuple[uploads.Upload, dict[str, Any]]:
    """The upload with its video, which may have to be fetched first, and the facts about it."""
    if upload.source_url is not None:
        with service.fetches.place(caller.owner):
            most, excess = await run_in_threadpool(most_to_fetch, service, caller)
            space = partial(check_space, service, 0)
            async with uploads.while_connected(request):
                upload = await sources.fetch(
                    upload, service.egress, max_bytes=most, excess=excess, check_space=space
                )
    return upload, await look_into(service, upload, caller.owner)


def most_to_fetch(service: Service, caller: Caller) -> tuple[int, Problem]:
    """The bytes that `caller` may have fetched from a URL, and the Problem for a video that has more."""
    most, limit = service.settings.max_upload_bytes, caller.quota.bytes
    if limit is not None:
        used, seconds = service.jobs.bytes_used(caller.owner)
        if limit - used < most:
            return limit - used, Problem.quota_exceeded(
                "bytes", caller.owner, limit=limit, used=used, seconds=seconds
            )
    return most, sources.too_large(most)


async def look_into(service: Service, upload: uploads.Upload, owner: str) -> dict[str, Any]:
    """The facts about the video of `upload`, in the turn of `owner`; raises Problem where it cannot be taken."""
    async with service.looks.place(owner):
        return await anyio.to_thread.run_sync(
            probe, service.prober, upload.path, service.settings, upload.options, limiter=service.looking
        )


async def look_at(service: Service, upload: uploads.Upload, owner: str) -> tuple[str | None, str | None]:
    """The beginning of `upload`, in the turn of `owner`; see `first_frame`."""
    async with service.looks.place(owner):
        return await anyio.to_thread.run_sync(
            first_frame,
            service.prober,
            upload.path,
            service.settings,
            upload.options,
            limiter=service.looking,
        )


def check_capacity(service: Service, caller: Caller, length: int) -> None:
    """Raises Problem 429 or 507 where one more job of `caller`, of `length` bytes, cannot be taken."""
    service.jobs.check_quota(caller.owner, caller.quota, length)
    waiting = service.jobs.counts()[State.QUEUED]
    if waiting >= service.settings.max_queued_jobs:
        raise Problem(
            "queue-full",
            f"{waiting} jobs are waiting, as many as DAIN_MAX_QUEUED_JOBS allows; try again in 30 seconds.",
            headers={"Retry-After": "30"},
        )
    check_space(service, length)


def quota_of(caller: Caller, settings: Settings) -> Quota:
    """How much of the service the caller's owner may take: what the key does not say about work, the settings do."""
    quota = caller.quota
    return quota if quota.work is not None else quota.model_copy(update={"work": settings.max_work})


def check_work(
    service: Service, caller: Caller, quota: Quota, upload: uploads.Upload, facts: dict[str, Any]
) -> Work:
    """The work of a job; Problem 429 where its owner may not have it now, and 422 where that is so at any time."""
    work = Work.of(facts, upload.options)
    if quota.work is not None and work.megapixels > quota.work:
        raise Problem(
            "limit-exceeded",
            f"The job takes {figure(work.megapixels)} megapixels of new frames, and you may have {quota.work} before "
            "the workers at a time. Send a shorter or smaller video, or ask for fewer frames.",
        )
    service.jobs.check_quota(caller.owner, quota, upload.uncounted_bytes, work.megapixels)
    return work


def models_served(workers: Sequence[WorkerRecord]) -> list[str]:
    """The models that a job may name: those that come with the project, and what else the living workers have."""
    return sorted({*SHIPPED_MODELS}.union(*(worker.models for worker in workers)))


def codecs_served(workers: Sequence[WorkerRecord]) -> list[str]:
    """The codecs that a result may have: those of every living worker, since any may make a part of it.

    A worker of an earlier release says nothing of them, and has one.
    """
    told = [worker.codecs or ["h264"] for worker in workers if worker.error is None]
    return [codec for codec in CODECS if all(codec in codecs for codecs in told or [list(COMMON_CODECS)])]


def check_space(service: Service, length: int) -> None:
    """Raises Problem 507 where `length` more bytes in the store would leave less free than is to be kept."""
    free, least = service.store.free_bytes(), service.settings.min_free_bytes
    if free < least + length:
        raise uploads.no_space(free, least, length)


def replay(service: Service, binding: idempotency.Binding, upload: uploads.Upload, caller: Caller) -> Job:
    """The job of `binding`; Problem 422 or 410 where `upload` is another request, or the job was removed."""
    if not upload.has_fingerprint(binding.fingerprint):
        raise Problem(
            "idempotency-key-reused",
            "The Idempotency-Key came with another video or other options before; use a new key for a new request.",
        )
    try:
        return service.jobs.show(binding.job_id, owner=caller.owner)
    except Problem:
        raise Problem(
            "job-gone", f"The job {binding.job_id} of this key was removed; use a new key to submit it again."
        ) from None


def accept(
    service: Service,
    key: idempotency.NoKey,
    upload: uploads.Upload,
    handling: Handling,
    facts: dict[str, Any],
    caller: Caller,
) -> Job:
    """Makes the upload durable, records the job, and queues it; returns the job.

    The order matters: whatever stops this halfway, no job is on record without its upload.
    """
    quota = quota_of(caller, service.settings)
    work = check_work(service, caller, quota, upload, facts)
    job_id = service.jobs.new_id()
    source, mask = f"uploads/{job_id}", f"masks/{job_id}"
    key.check()
    service.store.put(upload.path, source, sha256=upload.sha256)
    if upload.mask:
        path = upload.path.with_name("mask")
        path.write_bytes(upload.mask)
        service.store.put(path, mask, sha256=upload.options.mask)
    try:
        job = service.jobs.create(
            job_id,
            owner=caller.owner,
            source=source,
            source_sha256=upload.sha256,
            filename=upload.filename,
            options=upload.options,
            handling=handling,
            input={name: value for name, value in facts.items() if name != "version"},
            facts=facts,
            notes=Note.read_all(facts.get("notes", ())),
            size_bytes=upload.uncounted_bytes,
            work=work.megapixels,
            weight=caller.key.weight if caller.key else 1.0,
            quota=quota,
            entry=key.entry(idempotency.Binding(job_id, upload.fingerprint)),
            origin=Origin(request_id(), traces.traceparent()),
        )
    except Problem:  # the quota: other uploads of the owner were faster
        service.store.delete(source)
        service.store.delete(mask)
        raise
    try:
        service.queue.enqueue(job_id, PLAN)
    except RedisError as error:  # it is on record: the janitor queues it
        log.warning("job %s could not be queued yet: %r", job_id, error)
    return job
