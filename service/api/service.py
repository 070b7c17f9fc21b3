"""What one process of the API holds: its connections, its store and its prober."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import anyio
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from service.api.fair import FairSemaphore
from service.api.feed import Feed
from service.api.probe import Prober
from service.api.rates import RateLimits
from service.api.sources import Fetches
from service.egress import Egress
from service.jobs.incoming import Incoming
from service.jobs.keys import Keys, open_keys
from service.jobs.machine import Jobs
from service.jobs.queue import Queue
from service.jobs.webhooks import Deliveries
from service.jobs.workers import Workers
from service.settings import Settings
from service.store import Store

REDIS_CONNECT_SECONDS = 2.0
REDIS_REPLY_SECONDS = 5.0
MOVES = 40  # of files to or from the store, at a time
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
    fetches: Fetches = field(default_factory=Fetches)
    #: A look takes a core and some memory. Half of the places are as many as there are cores, and an owner has no more.
    looks: FairSemaphore = field(default_factory=lambda: FairSemaphore(LOOKS))
    looking: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(LOOKS))
    #: Files on their way to or from the store. A store that hangs holds these threads, and none that answers a poll.
    moving: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(MOVES))

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
