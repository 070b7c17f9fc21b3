"""The route that says what a job would take, without starting it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from service.api import uploads, webhooks
from service.api.auth import Caller, SubmitterDep
from service.api.deps import ServiceDep
from service.api.description import SUBMISSION
from service.api.problems import documented
from service.api.routes.submit import (
    REFUSALS,
    bytes_to_come,
    check_capacity,
    check_head,
    check_work,
    examine,
    look_at,
    quota_of,
    receive,
)
from service.api.service import Service
from service.jobs.backlog import LiveJob
from service.jobs.notes import Note
from service.jobs.records import StoredNote
from service.jobs.work import doubts

router = APIRouter(prefix="/jobs", tags=["jobs"])


class Estimate(BaseModel):
    """What a job would take."""

    input: dict[str, Any] = Field(description="the facts about the video, as a job has them")
    frames: int = Field(description="of the result, about")
    new_frames: int = Field(description="that the network computes, about")
    work: float = Field(description="what the job costs the workers: megapixels of new frames")
    seconds: float | None = Field(
        description="for which the job would have all workers; null where no living worker has run its model"
    )
    eta_seconds: float | None = Field(description="until the job would be done, after what goes before it")
    queue_position: int | None = Field(description="how many queued jobs would be begun before it")
    notes: list[StoredNote] = Field(
        description="what of the video will not come through, as far as its facts tell"
    )
    picture: str | None = Field(
        description="the first frame as a JPEG in base64, 320 pixels wide or high; null where none can be drawn"
    )


@router.post(
    "/estimate",
    response_model=Estimate,
    openapi_extra=SUBMISSION,
    responses=documented(*REFUSALS),
)
async def estimate(request: Request, service: ServiceDep, caller: SubmitterDep) -> Estimate:
    """Takes a video as POST /jobs does, and says what the job would take. Nothing is kept and nothing started.

    What POST /jobs would refuse now is refused here, by the same problem.
    """
    check_head(request, service)
    service.looks.check(caller.owner)
    await run_in_threadpool(check_capacity, service, caller, bytes_to_come(request))
    async with AsyncExitStack() as files:
        upload = await receive(request, service, caller, files)
        await webhooks.settle(upload.handling, caller, service.settings, service.egress)
        upload, facts = await examine(request, service, upload, caller)
        picture, frames_of_one = await look_at(service, upload, caller.owner)
    if frames_of_one is not None:
        facts = {**facts, "frames_of_one": frames_of_one}
    return await run_in_threadpool(estimate_of, service, caller, upload, facts, picture)


def estimate_of(
    service: Service, caller: Caller, upload: uploads.Upload, facts: dict[str, Any], picture: str | None
) -> Estimate:
    """The estimate for `upload`, of which `facts` and the first frame are known; Problem 422 or 429 as `check_work`."""
    work = check_work(service, caller, quota_of(caller, service.settings), upload, facts)
    job = LiveJob(
        id=service.jobs.new_id(),
        owner=caller.owner,
        is_queued=True,
        priority=upload.handling.priority,
        model=upload.options.model,
        work=work.megapixels,
        left=work.megapixels,
    )
    backlog = service.jobs.backlog().with_job(job)
    return Estimate(
        input={name: value for name, value in facts.items() if name not in ("version", "frames_of_one")},
        frames=work.frames,
        new_frames=work.new_frames,
        work=work.megapixels,
        seconds=backlog.seconds(job),
        eta_seconds=backlog.seconds_until_done(job.id),
        queue_position=backlog.position(job.id),
        notes=[*Note.read_all(facts.get("notes", ())), *doubts(facts, upload.options)],
        picture=picture,
    )
