"""What the routes work with: the connections of one API process, and the job that a path names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Annotated

import anyio
from fastapi import Depends, Request, Security
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from service.api.auth import CallerDep
from service.api.fair import FairSemaphore
from service.api.feed import Feed
from service.api.probe import Prober
from service.api.rates import RateLimits
from service.egress import Egress
from service.jobs.incoming import Incoming
from service.jobs.keys import Keys, Scope, open_keys
from service.jobs.machine import Jobs
from service.jobs.problems import Problem
from service.jobs.queue import Queue
from service.jobs.records import Job
from service.jobs.webhooks import Deliveries
from service.jobs.workers import Workers
from service.settings import Settings
from service.store import Store

REDIS_CONNECT_SECONDS = 2.0
REDIS_REPLY_SECONDS = 5.0
LOOKS = 2 * len(os.sched_getaffinity(0))  # into uploads, at a time


@dataclass(frozen=True)
class Service:
    """Everything that one API process holds. The application makes it when it starts."""

    settings: Settings
    redis: Redis
    store: Store
    jobs: Jobs
    queue: Queue
    workers: Workers
    keys: Keys
    rates: RateLimits
    deliveries: Deliveries
    egress: Egress
    feed: Feed
    incoming: Incoming
    prober: Prober = field(default_factory=Prober)
    #: A look takes a core and some memory. Half of the places are as many as there are cores, and an owner has no more.
    looks: FairSemaphore = field(default_factory=lambda: FairSemaphore(LOOKS))
    looking: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(LOOKS))

    @classmethod
    def from_settings(cls, settings: Settings) -> Service:
        """Opens the store and prepares the connection to Redis, which need not answer yet."""
        redis = Redis.from_url(
            settings.require_redis_url,
            socket_connect_timeout=REDIS_CONNECT_SECONDS,
            socket_timeout=REDIS_REPLY_SECONDS,
            # A Redis that restarts is back at once. A Redis that hangs would hang every attempt, so it gets one.
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3, (ConnectionError,)),
        )
        return cls(
            settings=settings,
            redis=redis,
            store=settings.open_store(),
            jobs=Jobs.from_settings(redis, settings),
            queue=Queue(redis),
            workers=Workers(redis, ttl_seconds=settings.worker_ttl_seconds),
            keys=open_keys(settings, redis),
            rates=RateLimits(redis),
            deliveries=Deliveries(redis),
            egress=Egress(settings.egress_allow),
            feed=Feed.from_url(settings.require_redis_url),
            incoming=Incoming(redis),
        )

    def close(self) -> None:
        """Closes the connections to Redis, and ends the prober."""
        self.prober.close()
        self.redis.close()


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
