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
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

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
        if place is None or max(place) > _MOST or min(place) == _MOST:  # nothing can follow the last of all
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


def read_entry(entry: tuple[bytes, dict[bytes, bytes]]) -> Event | None:
    """The event of an entry of the stream; None, and a word in the log, where it cannot be read."""
    place = text(entry[0])
    try:
        return Event.model_validate({**json.loads(entry[1][b"event"]), "id": place})
    except (KeyError, TypeError, ValueError) as error:
        log.warning("event %s cannot be read and is passed over: %s", place, error)
        return None
