"""What the routes work with: what the process holds, and the job that a path names."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Request, Security

from service.api.auth import CallerDep
from service.api.service import Service
from service.jobs.keys import Scope
from service.jobs.problems import Problem
from service.jobs.records import Job


async def get_service(request: Request) -> Service:
    """What the process holds that serves `request`. The framework would call a plain function in a thread."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]

JOB_ID = re.compile(r"[0-9a-f]{28}")


def get_job(job_id: str, service: ServiceDep, caller: CallerDep) -> Job:
    """The caller's job `job_id` of the path.

    Raises Problem 404 where the caller has no such job, or where `job_id` has not the form of an id.
    """
    if not JOB_ID.fullmatch(job_id):
        raise Problem.job_not_found(job_id[:100])
    return service.jobs.show(job_id, owner=caller.owner)


#: A job to look at, and a job to change: they need the scopes `read` and `submit`.
JobDep = Annotated[Job, Security(get_job, scopes=[Scope.READ])]
ChangedJobDep = Annotated[Job, Security(get_job, scopes=[Scope.SUBMIT])]
