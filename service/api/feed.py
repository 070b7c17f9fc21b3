"""The stream of events as one process of the API follows it: one task reads it and wakes whoever waits.

Whoever follows the feed holds the place of the last event that it has seen, and nothing else. So a slow client costs no
memory: the feed keeps the latest events once for all, and what is older is read from Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import DainError
from service.jobs.events import BEGINNING, Event, Place, read_entry
from service.jobs.names import EVENTS

log = logging.getLogger(__name__)

KEPT = 5000  # events in memory: about five megabytes
BATCH = 500  # events of one answer of Redis
BLOCK_SECONDS = 5.0  # that one call waits for the next event
REPLY_SECONDS = 5.0  # beyond that, after which Redis counts as hanging
CONNECTIONS = 8  # to Redis; one of them waits for the next event
PAUSE_SECONDS = 1.0  # before another attempt to reach Redis

QUIET_SECONDS = 15.0  # after which whoever follows is told how far the feed has come
FOLLOWED_SECONDS = 900.0  # then a client has to connect again, and to show its key

EVERY_JOB = ""


class Lost(DainError):
    """Events after a place are no longer in the stream, or the stream has no such place."""


class Feed:
    """The events of one Redis, which `running` follows."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        #: All events after the place `_begin`, up to `_end`.
        self._recent: deque[Event] = deque()
        self._begin = self._end = BEGINNING
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._connected = True  # as far as the log knows
        self.closed = False  #: once true, whoever follows is to end

    @classmethod
    def from_url(cls, redis_url: str) -> Feed:
        """Prepares the connection to Redis, which need not answer yet."""
        pool = BlockingConnectionPool.from_url(
            redis_url,
            max_connections=CONNECTIONS,  # whoever finds none free waits its turn
            timeout=REPLY_SECONDS,
            socket_timeout=BLOCK_SECONDS + REPLY_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a connection to a Redis that has restarted fails at its first use
        )
        return cls(Redis.from_pool(pool))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows the stream meanwhile. Where Redis is away, goes on as soon as it is back."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self.close()
            while not task.done():
                task.cancel()  # again, because now and then redis-py takes one for a connection that broke
                await asyncio.wait([task], timeout=0.1)
            await self._redis.aclose()

    def close(self) -> None:
        """Ends all waiting."""
        self.closed = True
        self._wake(self._waiting)

    @contextmanager
    def waiting(self, job: str = EVERY_JOB) -> Iterator[asyncio.Event]:
        """A flag that is set when there may be a new event of `job`, or of any, and when the feed is closed."""
        flag = asyncio.Event()
        self._waiting[job].add(flag)
        try:
            yield flag
        finally:
            self._waiting[job].discard(flag)
            if not self._waiting[job]:
                del self._waiting[job]

    @property
    def waiters(self) -> int:
        """How many wait now."""
        return sum(map(len, self._waiting.values()))

    async def newest(self) -> Place:
        """The place of the last event that there is. Raises RedisError."""
        last: Any = await self._redis.xrevrange(EVENTS, count=1)
        return Place.parse(last[0][0]) if last else BEGINNING

    async def follow(self, place: Place, job: str = EVERY_JOB) -> AsyncGenerator[Event | Place, None]:
        """The events of `job`, or of any, after `place`, as they come; now and then the place that it has come to.

        It ends after `FOLLOWED_SECONDS`, and when the feed is closed. Raises Lost as `after` does.
        """
        end = time.monotonic() + FOLLOWED_SECONDS
        with self.waiting(job) as news:
            yield place
            while not self.closed and time.monotonic() < end:
                news.clear()
                try:
                    events, place = await self.after(place)
                except RedisError:  # it is told when Redis is back
                    events = []
                for event in events:
                    if job in (EVERY_JOB, event.job):
                        yield event
                if not events:
                    try:
                        await asyncio.wait_for(news.wait(), QUIET_SECONDS)
                    except TimeoutError:
                        yield place

    async def after(self, place: Place) -> tuple[list[Event], Place]:
        """Events after `place`, oldest first, and the place to go on from. There are none yet where the two are equal.

        Raises:
            Lost: some of them are gone, or the stream never came to `place`.
            RedisError: they are older than what is kept here, and Redis is away.
        """
        if not self._begin <= place <= self._end:
            return await self.read(place)
        new = []
        for event in reversed(self._recent):
            if event.place <= place:
                break
            new.append(event)
        return new[::-1], self._end

    async def read(self, place: Place) -> tuple[list[Event], Place]:
        """As `after`, of what Redis has now."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xrange(EVENTS, count=1)
            pipe.xrevrange(EVENTS, count=1)
            pipe.xrange(EVENTS, min=f"({place}", count=BATCH)
            first, last, entries = await pipe.execute()
        if place != BEGINNING and not (
            first and Place.parse(first[0][0]) <= place <= Place.parse(last[0][0])
        ):
            raise Lost(
                f"Events after {place} are no longer kept, or the stream never came to it; look at the jobs themselves."
            )
        events = [event for event in map(read_entry, entries) if event]
        return events, Place.parse(entries[-1][0]) if entries else place

    async def _run(self) -> None:
        while not self.closed:
            try:
                await self._follow()
            except (RedisError, OSError) as error:
                log.log(logging.WARNING if self._connected else logging.DEBUG, "no events come: %r", error)
                self._connected = False
            except Exception:  # whoever waits would wait for ever
                log.exception("the feed of events failed, and begins again")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _follow(self) -> None:
        """Reads on from now. Whoever waited gets from Redis what was missed."""
        self._recent.clear()
        self._begin = self._end = await self.newest()
        self._connected = True
        self._wake(self._waiting)
        while True:
            block = int(BLOCK_SECONDS * 1000)
            reply: Any = await self._redis.xread({EVENTS: str(self._end)}, count=BATCH, block=block)
            streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply or []]
            self._take([entry for entries in streams for entry in entries])

    def _take(self, entries: list[Any]) -> None:
        if not entries:
            return
        events = [event for event in map(read_entry, entries) if event]
        self._recent += events
        while len(self._recent) > KEPT:
            self._begin = self._recent.popleft().place
        self._end = Place.parse(entries[-1][0])
        self._wake({event.job for event in events} | {EVERY_JOB})

    def _wake(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            for flag in self._waiting.get(job, ()):
                flag.set()
