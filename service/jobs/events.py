"""The stream of events: every transition of a job, as Redis recorded it in the same step.

An event is a JSON document of `version`, `type`, `job`, `owner` and `time`, and further members by its type:

    job.queued       the job was accepted
    job.started      a worker took its first task
    job.progressed   one more percent is done, at most 101 times a job: `frames_done`, `frames_total`
    job.succeeded    the result can be fetched
    job.failed       `error` is the problem document
    job.cancelled
    job.expired      the result was removed
    job.deleted      the record was removed

The stream keeps about the last 50,000 events. Whoever was away longer reads the jobs themselves.
"""

from __future__ import annotations

import json
import logging
import re
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from redis import Redis

from service.jobs.machine import EVENTS
from service.jobs.workers import text

log = logging.getLogger("dain.events")

_PLACE = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)
_MOST = 2**64 - 1


class Place(NamedTuple):
    """A place in the stream: milliseconds since the epoch, and a number within one. Later events have higher places."""

    milliseconds: int
    number: int

    @classmethod
    def parse(cls, id: str | bytes) -> Place:
        """The place that the id of an event names, e.g. "1764550000000-0". Raises ValueError where it names none."""
        match = _PLACE.fullmatch(id.decode(errors="replace") if isinstance(id, bytes) else id)
        place = cls(int(match[1]), int(match[2] or 0)) if match else None
        if place is None or max(place) > _MOST:
            raise ValueError(f"{id!r:.60} is not the id of an event")
        return place

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"


BEGINNING = Place(0, 0)  # before every event


class Event(BaseModel):
    """One event. Members that this version does not know are kept (`model_extra`)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str  #: its place in the stream, e.g. "1764550000000-0"; later events have higher places
    version: int
    type: str
    job: str
    owner: str
    time: float  #: seconds since the epoch

    @cached_property
    def place(self) -> Place:
        return Place.parse(self.id)


class Events:
    """Reads the stream of one Redis. A cursor is the id of the last event seen; "0" is the stream's beginning.

    cursor = events.newest()
    while True:
        for event in events.after(cursor, wait_seconds=25):
            cursor = event.id
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def newest(self) -> str:
        """The cursor behind the last event that there is."""
        last = self._redis.xrevrange(EVENTS, count=1)
        return text(last[0][0]) if last else "0"

    def after(self, cursor: str, *, wait_seconds: float = 0.0, most: int = 100) -> list[Event]:
        """Up to `most` events after `cursor`, oldest first; waits up to `wait_seconds` for one where there is none.

        A Redis client whose `socket_timeout` is shorter than `wait_seconds` breaks off the wait with an error.
        """
        reply: Any = self._redis.xread({EVENTS: cursor}, count=most, block=int(wait_seconds * 1000) or None)
        streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply or []]
        return [event for entries in streams for event in map(read_entry, entries) if event]


def read_entry(entry: tuple[bytes, dict[bytes, bytes]]) -> Event | None:
    """The event of an entry of the stream; None, and a word in the log, where it cannot be read."""
    place = text(entry[0])
    try:
        return Event.model_validate({**json.loads(entry[1][b"event"]), "id": place})
    except (KeyError, TypeError, ValueError) as error:
        log.warning("event %s cannot be read and is passed over: %s", place, error)
        return None
