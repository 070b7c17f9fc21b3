"""Server-sent events as a client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


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
        over = self.type == "job" and self.data["finished_at"] is not None
        return over or self.type in ("job.succeeded", "job.failed", "job.cancelled", "job.deleted")


def read_events(body: Iterable[bytes]) -> Iterator[Event]:
    """The events in the `body` of a stream that comes in pieces. One without data has only an id, and no type."""
    fields: dict[str, str] = {}
    for line in _lines(body):
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            data = fields.get("data")
            yield Event(
                fields.get("id", ""),
                "" if data is None else fields.get("event", ""),
                {} if data is None else json.loads(data),
            )
            fields = {}


def _lines(body: Iterable[bytes]) -> Iterator[str]:
    """Whole lines. A text may hold other characters that break a line elsewhere."""
    rest = b""
    for piece in body:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode()
