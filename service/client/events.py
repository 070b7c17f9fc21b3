"""Server-sent events as a client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .results import Job


@dataclass(frozen=True)
class Event:
    """One event: `type` is `job`, `job.started`, `job.progressed`, `job.succeeded` …, and `data` its document.

    `Client.events(after=event.id)` goes on behind it.
    """

    id: str
    type: str
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        """Whether it ends its job, or shows that it is over."""
        over = self.type == "job" and Job.of(self.data).is_over
        return over or self.type in ("job.succeeded", "job.failed", "job.cancelled", "job.deleted")


class EventReader:
    """Reads the events of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that `piece` completes. One without data has only an id, and no type."""
        # By hand, since a text may hold other characters that break a line elsewhere.
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.removesuffix(b"\r").decode().partition(": ")
            if name:
                self._fields[name] = value
            elif self._fields:
                yield self._event()

    def _event(self) -> Event:
        fields, self._fields = self._fields, {}
        data = fields.get("data")
        return Event(
            fields.get("id", ""),
            "" if data is None else fields.get("event", ""),
            {} if data is None else json.loads(data),
        )
