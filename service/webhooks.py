"""The sender delivers the events of jobs to their webhooks, as Standard Webhooks has it; see docs/webhooks.md.

Run it as `python -m service.webhooks`. Any number may run. A sender that is killed loses nothing: another attempt is
made when its loans of deliveries run out, under the same message id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from standardwebhooks import Webhook

from service import traces
from service.api.views import JobView
from service.egress import Egress, EgressRefused
from service.jobs.records import Outlook, UnreadableRecord, read_job
from service.jobs.webhooks import Attempt, Deliveries, Delivery, secret_of
from service.logs import get_logger, log_to_stderr
from service.settings import Settings, read_settings

log = get_logger("dain.webhooks")

MOST_AT_A_TIME = 128
MOST_A_DESTINATION = 4  # at a time: an owner's host that never answers leaves the others their places
ANSWER_SECONDS = 15.0
LOAN_SECONDS = 2 * ANSWER_SECONDS
POLL_SECONDS = 0.5
REDIS_SECONDS = 5.0
#: Pauses between attempts: 28 hours in all.
PAUSES = (5.0, 30.0, 120.0, 600.0, 1800.0, 2 * 3600.0, 5 * 3600.0, 8 * 3600.0, 12 * 3600.0)
JITTER = 0.1  # of a pause, more or less
#: News of progress are tried once, while they are new: later ones say more.
PROGRESS, PROGRESS_SECONDS = "job.progressed", 60.0
GONE = 410


@dataclass(frozen=True)
class Answer:
    """What came of an attempt: it was delivered, unless `error` says why not. After the `last` there is no other."""

    status: int | None = None
    error: str | None = None
    last: bool = False


class Sender:
    """Sends what is due through `client`; what follows from each of `secrets` for a job's owner signs it."""

    def __init__(
        self,
        deliveries: Deliveries,
        client: httpx.AsyncClient,
        secrets: Sequence[str],
        *,
        answer_seconds: float = ANSWER_SECONDS,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._deliveries = deliveries
        self._client = client
        self._secrets = secrets
        self._answer_seconds = answer_seconds
        self._pauses = pauses

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; then end the attempts in hand."""
        stopped = asyncio.create_task(stop.wait())
        in_hand: dict[asyncio.Task[None], str] = {}
        while not stop.is_set():
            taken = await self._take(in_hand)
            for delivery in taken:
                in_hand[asyncio.create_task(self._deliver(delivery))] = delivery.destination
            if not taken:
                await asyncio.wait(
                    {stopped, *in_hand}, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
            in_hand = {task: destination for task, destination in in_hand.items() if not task.done()}
        if in_hand:
            await asyncio.wait(in_hand)

    async def _take(self, in_hand: dict[asyncio.Task[None], str]) -> list[Delivery]:
        counts = Counter(in_hand.values())
        busy = [destination for destination, count in counts.items() if count >= MOST_A_DESTINATION]
        free = MOST_AT_A_TIME - len(in_hand)
        if not free:
            return []
        try:
            return await asyncio.to_thread(self._deliveries.take, free, loan_seconds=LOAN_SECONDS, busy=busy)
        except RedisError as error:
            log.warning("Redis does not answer", error=str(error), next_look_seconds=POLL_SECONDS)
            return []

    async def _deliver(self, delivery: Delivery) -> None:
        """Make one attempt, and record what came of it."""
        try:
            attempt = await self._attempt(delivery)
            await asyncio.to_thread(self._settle, delivery, attempt)
        except RedisError as error:
            log.warning("message may be sent again", message=delivery.message, error=str(error))

    async def _attempt(self, delivery: Delivery) -> Answer:
        if delivery.event.type == PROGRESS and delivery.age > PROGRESS_SECONDS:
            return Answer(error="The news was old before it could be sent.", last=True)
        if await asyncio.to_thread(self._deliveries.is_gone, delivery.event.job):
            return Answer(error="The webhook answered 410 before: it wants no more of this job.", last=True)
        try:
            with traces.span("webhook", parent=delivery.record.get("traceparent"), kind="CLIENT") as span:
                answer = await self._send(delivery)
                span.set(
                    job=delivery.event.job,
                    type=delivery.event.type,
                    attempt=delivery.attempt,
                    error=answer.error,
                )
                span.set_standard({"http.response.status_code": answer.status})
            return answer
        except Exception:  # a fault of this program must not keep the delivery for ever
            log.exception("message cannot be sent", message=delivery.message)
            return Answer(error="The service failed to send this.")

    async def _send(self, delivery: Delivery) -> Answer:
        body = payload(delivery)
        headers = sign(
            [secret_of(delivery.event.owner, each) for each in self._secrets], delivery.message, body
        )
        try:
            async with (
                asyncio.timeout(self._answer_seconds),
                self._client.stream("POST", delivery.url, content=body, headers=headers) as response,
            ):
                return judge(response)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(error=f"There was no answer within {self._answer_seconds:g} seconds.")
        except EgressRefused as error:
            return Answer(error=str(error))
        except httpx.TransportError as error:
            return Answer(error=f"The connection failed: {error or type(error).__name__}.")

    def _settle(self, delivery: Delivery, answer: Answer) -> None:
        pauses = () if delivery.event.type == PROGRESS else self._pauses
        again_in = None
        if answer.error is None:
            outcome = "delivered"
        elif answer.last or delivery.attempt > len(pauses):
            outcome = "given_up"
        else:
            outcome = "failed"
            again_in = pauses[delivery.attempt - 1] * random.uniform(1 - JITTER, 1 + JITTER)
        entry = Attempt(
            message=delivery.message,
            type=delivery.event.type,
            attempt=delivery.attempt,
            outcome=outcome,
            status=answer.status,
            error=answer.error,
        )
        self._deliveries.settle(delivery, entry, again_in=again_in, gone=answer.status == GONE)
        log.log(
            logging.WARNING if outcome == "given_up" else logging.INFO,
            "webhook sent" if outcome == "delivered" else "webhook not sent",
            job=delivery.event.job,
            message=delivery.message,
            type=delivery.event.type,
            attempt=delivery.attempt,
            outcome=outcome,
            status=answer.status,
            error=answer.error,
            again_in_seconds=again_in and round(again_in),
        )


def judge(response: httpx.Response) -> Answer:
    """What the status of an answer means; its body is not read."""
    status = response.status_code
    if response.is_success:
        return Answer(status)
    if status == GONE:
        return Answer(status, "The webhook answered 410: it wants no more of this job.", last=True)
    if response.is_redirect:
        return Answer(
            status, f"The webhook answered {status}: redirects are not followed, name the last URL."
        )
    return Answer(status, f"The webhook answered {status}.")


def payload(delivery: Delivery) -> str:
    """The message: the same text in every attempt, with the job as it was at the event."""
    event, record = delivery.event, delivery.record
    done = float((event.model_extra or {}).get("frames_done", 0))
    in_hand = max(int(done - float(record.get("frames", 0))), 0)
    try:
        job = read_job(event.job, record, Outlook(), in_hand, now=event.time)
    except UnreadableRecord as error:
        job = error.job
    happened = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
    return json.dumps(
        {"type": event.type, "timestamp": happened, "data": JobView.of(job).model_dump(mode="json")}
    )


def sign(secrets: Sequence[str], message: str, body: str) -> dict[str, str]:
    """The headers of an attempt that is made now, signed with each of `secrets`."""
    now = datetime.now(UTC)
    return {
        "Content-Type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message, now, body) for secret in secrets),
    }


async def serve(settings: Settings) -> None:
    """Send until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if not settings.webhook_secret:
        log.info("DAIN_WEBHOOK_SECRET is not set: jobs with a webhook are refused, and nothing is sent")
        await stop.wait()
        return
    redis = Redis.from_url(
        settings.require_redis_url,
        socket_timeout=REDIS_SECONDS,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 5),
    )
    async with Egress(settings.egress_allow).client() as client:
        secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
        await Sender(Deliveries(redis), client, secrets).run(stop)


def main() -> None:
    """Send the webhooks of the environment's settings until SIGTERM or SIGINT."""
    settings = read_settings()
    log_to_stderr(settings)
    traces.start("webhooks")
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
