"""Webhooks: the queue of deliveries, and the log of a job's deliveries, in Redis.

The script that records a transition of a job queues the delivery of its event in the same step, with the job's record
as it was then: no event is lost, whatever is killed, and a delivery outlives the record of its job. A sender borrows a
delivery that is due, tries it, and settles it. A sender that dies leaves a loan that runs out.

Each destination (an owner's scheme, host and port) has a line of its own, and a sender takes from the lines in turn: a
receiver that hangs for one owner delays no other, who may have another path on its host.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis

from service.jobs.events import Event
from service.jobs.machine import SCRIPTS
from service.jobs.names import COUNTERS, EVENTS, job_key
from service.jobs.records import DEFAULT_OWNER
from service.jobs.workers import text

log = logging.getLogger("dain.webhooks")

DESTINATIONS = "dain:webhooks"  # scored by when the next delivery to each is due
OUTCOMES = ("delivered", "failed", "given_up")
MOST_LOGGED = 50  # attempts of one job, as common.lua has it


@dataclass(frozen=True)
class Delivery:
    """One event on its way to a webhook, lent for one attempt; `record` are the job's fields at the event."""

    destination: str
    attempt: int  #: 1 is the first
    age: float  #: seconds since the event
    event: Event
    record: dict[str, str]

    @property
    def message(self) -> str:
        """The name of the message: the same in every attempt, and of no other message of any service."""
        return f"msg_{self.event.job}_{self.event.id}"

    @property
    def url(self) -> str:
        return self.record["webhook_url"]


class Attempt(BaseModel):
    """One attempt at a delivery, in the log of a job."""

    model_config = ConfigDict(extra="allow")

    message: str = Field(description="the webhook-id header, the same in every attempt")
    type: str = Field(description="the event, such as job.succeeded")
    attempt: int = Field(description="1 is the first")
    time: float = Field(default=0.0, description="when it ended, in seconds since the epoch")
    outcome: str = Field(description="delivered; failed, to be tried again; or given_up")
    status: int | None = Field(
        default=None, description="HTTP status of the answer; null where there was none"
    )
    error: str | None = Field(default=None, description="why it counts as failed")
    next_attempt_at: float | None = None


class Deliveries:
    """The deliveries of one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = {
            name: redis.register_script(SCRIPTS[name]) for name in ("take_deliveries", "settle_delivery")
        }

    def take(self, most: int, *, loan_seconds: float, busy: Collection[str] = ()) -> list[Delivery]:
        """Borrow up to `most` deliveries that are due, one for each destination that is not in `busy`.

        One that is not settled within `loan_seconds` is due again.
        """
        reply: Any = self._scripts["take_deliveries"](
            keys=[EVENTS, ""], args=["", most, loan_seconds, json.dumps(list(busy))]
        )
        deliveries = [_read(text(event_id), float(now), fields) for event_id, now, fields in reply]
        return [delivery for delivery in deliveries if delivery]

    def settle(
        self, delivery: Delivery, attempt: Attempt, *, again_in: float | None = None, gone: bool = False
    ) -> bool:
        """Record what came of an attempt; False where another sender has borrowed the delivery since.

        Args:
            again_in: seconds to the next attempt; None: there is none.
            gone: the webhook wants nothing more of this job.
        """
        job_id = delivery.event.job
        return bool(
            self._scripts["settle_delivery"](
                keys=[EVENTS, job_key(job_id), COUNTERS],
                args=[
                    job_id,
                    delivery.event.id,
                    delivery.attempt,
                    "" if again_in is None else again_in,
                    int(gone),
                    int(attempt.outcome == "delivered"),
                    attempt.model_dump_json(exclude_none=True),
                ],
            )
        )

    def is_gone(self, job_id: str) -> bool:
        """Whether the job's webhook answered that it wants nothing more."""
        return bool(self._redis.hexists(job_key(job_id), "webhook_gone"))

    def late_seconds(self) -> float:
        """How long the delivery that is most overdue has waited for a sender; 0 where none is due."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrange(DESTINATIONS, 0, 0, withscores=True)
            pipe.time()
            first, (seconds, microseconds) = pipe.execute()
        return max(seconds + microseconds / 1e6 - first[0][1], 0.0) if first else 0.0

    def log(self, job_id: str) -> list[Attempt]:
        """The last attempts at deliveries of the job, the newest first; at most `MOST_LOGGED`."""
        entries = self._redis.lrange(job_key(job_id, "deliveries"), 0, -1)
        return [Attempt.model_validate_json(entry) for entry in entries]


def secret_of(owner: str, secret: str) -> str:
    """The secret that signs the messages to `owner`, which tells nothing of `secret`, nor of another owner's.

    It is `secret` itself for the owner of jobs where there are no keys.
    """
    if owner == DEFAULT_OWNER:
        return secret
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "whsec_" + base64.b64encode(hmac.digest(key, f"dain webhook {owner}".encode(), "sha256")).decode()


def _read(event_id: str, now: float, pairs: list[bytes]) -> Delivery | None:
    """The delivery; None where this version cannot read it, which stays for one that can."""
    fields = {
        text(name): value.decode(errors="replace")
        for name, value in zip(pairs[::2], pairs[1::2], strict=True)
    }
    try:
        event = Event.model_validate({**json.loads(fields["event"]), "id": event_id})
        return Delivery(
            destination=fields["destination"],
            attempt=int(fields["attempts"]),
            age=now - event.time,
            event=event,
            record=json.loads(fields["record"]),
        )
    except (KeyError, ValueError) as error:
        log.error("the delivery of event %s cannot be read and waits: %s", event_id, error)
        return None
