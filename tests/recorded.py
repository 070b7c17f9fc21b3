"""What the stream of events holds."""

from __future__ import annotations

from redis import Redis

from service.jobs.events import Event, read_entry
from service.jobs.names import EVENTS


def recorded(redis: Redis) -> list[Event]:
    """Every event that can be read, oldest first."""
    return [event for event in map(read_entry, redis.xrange(EVENTS)) if event]
