"""The routes that send events as they happen, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from service.api.auth import ReaderDep
from service.api.deps import JobDep, ServiceDep
from service.api.feed import Feed, Lost
from service.api.problems import documented
from service.api.service import Service
from service.api.views import JobView
from service.jobs.events import BEGINNING, Event, Place
from service.jobs.keys import Scope
from service.jobs.problems import Problem

router = APIRouter()

OVER = frozenset({"job.succeeded", "job.failed", "job.cancelled", "job.deleted"})
RETRY_MILLISECONDS = 3000  # after which a client connects again
FAREWELL_SECONDS = 5.0  # that the end of the service leaves a stream for its last words

_sent = partial(ServerSentEvent, sep="\n")  # so a shell script reads an id without a carriage return

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: each has the `id` and `event` (its type) of an event, and the event as "
        "JSON in `data`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def get_place(
    last_event_id: Annotated[
        str | None,
        Header(
            description="`id` of the last event that was seen, to go on from there; 0 for all that are kept."
        ),
    ] = None,
) -> Place | None:
    """The place to go on from; None for now. Raises Problem 400 where the header names none."""
    try:
        return Place.parse(last_event_id) if last_event_id else None
    except ValueError as error:
        raise Problem(
            "invalid-event-id",
            f"Last-Event-ID: {error}; send an `id` of this stream, such as 1764550000000-0, or none.",
        ) from None


PlaceDep = Annotated[Place | None, Depends(get_place)]


@router.get(
    "/jobs/{job_id}/events",
    tags=["jobs"],
    response_class=EventSourceResponse,
    responses={
        **STREAM,
        204: {"description": "The job is over, and Last-Event-ID is its last event: there will be no more."},
        **documented("invalid-event-id", "job-not-found", "redis-unavailable"),
    },
)
async def follow_job(job: JobDep, place: PlaceDep, service: ServiceDep, caller: ReaderDep) -> Response:
    """Sends what happens to a job as server-sent events, until it is over.

    Without `Last-Event-ID` the first event, `job`, is the job as it stands. Where events after `Last-Event-ID` are no
    longer kept, an event `reset` says so, and `job` follows.
    """
    if place is not None and job.status.terminal and await _ended_by(service.feed, place, job.id):
        return Response(status_code=204)
    return _stream(_of_job(service, caller.owner, job.id, place))


@router.get(
    "/events",
    tags=["events"],
    response_class=EventSourceResponse,
    responses={**STREAM, **documented("invalid-event-id", "forbidden", "redis-unavailable")},
)
async def follow_all(
    place: PlaceDep,
    service: ServiceDep,
    caller: ReaderDep,
    all_owners: Annotated[
        bool, Query(alias="all", description="Events of every owner's jobs; needs the scope `admin`.")
    ] = False,
) -> Response:
    """Sends what happens to the caller's jobs as server-sent events, from now on or from `Last-Event-ID` on.

    Where events after `Last-Event-ID` are no longer kept, an event `reset` says so, and those that are kept follow.
    """
    if all_owners and Scope.ADMIN not in caller.scopes:
        raise Problem(
            "forbidden", "The events of all owners need a key with the scope admin; leave out `all`."
        )
    begin = await service.feed.newest() if place is None else place
    return _stream(_of_jobs(service.feed, None if all_owners else caller.owner, begin))


async def _of_job(
    service: Service, owner: str, job_id: str, place: Place | None
) -> AsyncIterator[ServerSentEvent]:
    """The job as it stands where `place` is None, then its events after `place`, up to the one that ends it."""
    while True:
        if place is None:
            try:
                place = await service.feed.newest()
                view = JobView.of(await run_in_threadpool(service.jobs.show, job_id, owner=owner))
            except (RedisError, Problem):
                return  # the client connects again, and is told then
            yield _sent(view.model_dump_json(), event="job", id=str(place))
            if view.status.terminal:
                return
        try:
            async with aclosing(service.feed.follow(place, job_id)) as events:
                async for event in events:
                    yield _message(event)
                    if isinstance(event, Event) and event.type in OVER:
                        return
            return
        except Lost as lost:
            yield _reset(lost)
            place = None


async def _of_jobs(feed: Feed, owner: str | None, place: Place) -> AsyncIterator[ServerSentEvent]:
    """Events after `place` of the jobs of `owner`, or of all."""
    while True:
        try:
            async with aclosing(feed.follow(place)) as events:
                async for event in events:
                    if isinstance(event, Place) or owner in (None, event.owner):
                        yield _message(event)
            return
        except Lost as lost:
            yield _reset(lost)
            place = BEGINNING


async def _ended_by(feed: Feed, place: Place, job_id: str) -> bool:
    """Whether the job, which is over, ended at `place` or before, as far as the events tell."""
    before = None
    try:
        while place != before:
            before = place
            events, place = await feed.read(place)
            if any(event.job == job_id and event.type in OVER for event in events):
                return False
    except Lost:
        return False
    return True


def _message(event: Event | Place) -> ServerSentEvent:
    """An event as it is sent; of a place its id alone, which keeps the connection alive and the client up to date."""
    if isinstance(event, Place):
        return _sent(id=str(event), retry=RETRY_MILLISECONDS)
    return _sent(event.model_dump_json(), event=event.type, id=event.id)


def _reset(lost: Lost) -> ServerSentEvent:
    return _sent(json.dumps({"type": "reset", "detail": str(lost)}), event="reset")


def _stream(messages: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    return EventSourceResponse(messages, ping=0, shutdown_grace_period=FAREWELL_SECONDS)
