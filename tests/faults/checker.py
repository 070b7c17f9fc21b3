"""What must hold when the faults are over and each client has its answer: nothing lost, nothing twice, nothing left."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

from service.jobs import janitor
from service.jobs.events import Event
from service.jobs.queue import FAILURE_TTL
from tests.faults.clients import Client, Order
from tests.faults.stack import Stack
from tests.recorded import recorded

LETTERS = {
    "queued": "Q",
    "started": "R",
    "progressed": "p",
    "succeeded": "S",
    "failed": "F",
    "cancelled": "C",
}
LETTERS |= {"expired": "x", "deleted": "d"}
LIFE = re.compile(r"Q(Rp*S|(Rp*)?[FC])x?d?")  # of a job that has ended
RQ_KEEPS = re.compile(r"rq:(queues|workers(:.*)?|worker:.*|cleaned_.*|pubsub:.*)")


def faults(
    stack: Stack, clients: Iterable[Client], undisturbed: Mapping[Order, str], excuses: frozenset[str]
) -> list[str]:
    """A sentence for each thing that does not hold. `undisturbed` has the hash of what becomes of each order."""
    clients = list(clients)
    found = [client.fault for client in clients if client.fault]
    for client in clients:
        if not client.fault:
            found += _outcome(client, undisturbed, excuses)
    found += _lives(stack, clients)
    found += _left_over(stack)  # which waits until all webhooks are told
    return [*found, *_news(stack, clients)]


def _outcome(client: Client, undisturbed: Mapping[Order, str], excuses: frozenset[str]) -> Iterator[str]:
    wanted = undisturbed.get(client.order)  # None: it can come to no result
    if client.status == "succeeded" and client.sha256 != wanted:
        yield f"job {client.job_id} has another result than without faults"
    allowed = excuses if wanted else excuses | {"too-many-attempts"}
    if client.status == "failed" and client.problem not in allowed:
        yield f"job {client.job_id} failed: {client.error}"
    if client.status == "cancelled" and client.cancel_after is None:
        yield f"job {client.job_id} was cancelled, and nobody asked for it"


def _lives(stack: Stack, clients: Iterable[Client]) -> Iterator[str]:
    """What is wrong with the events of each job that the stream knows, and of each that a client was promised."""
    lives: dict[str, list[Event]] = defaultdict(list)
    for client in clients:
        if client.job_id:
            lives[client.job_id] = []
    for event in recorded(stack.redis):
        lives[event.job].append(event)
    for job_id, events_of_job in lives.items():
        life = "".join(LETTERS[event.type.removeprefix("job.")] for event in events_of_job)
        if not LIFE.fullmatch(life):
            yield f"job {job_id} has the events {life!r}"
        done = [event.model_extra["frames_done"] for event in events_of_job if event.type == "job.progressed"]
        if done != sorted(done):
            yield f"the progress of job {job_id} goes back: {done}"


def _news(stack: Stack, clients: Iterable[Client]) -> Iterator[str]:
    """What is wrong with the messages that the webhook got of each job: one of its end, under one id."""
    told: dict[str, dict[str, str]] = defaultdict(dict)
    for message in stack.receiver.messages:
        told[message.job][message.id] = message.type
    for client in clients:
        if not client.webhook or client.fault:
            continue
        types = list(told[client.job_id].values())
        ends = [each for each in types if each in ("job.succeeded", "job.failed", "job.cancelled")]
        if len(ends) != 1 or (client.status and ends != [f"job.{client.status}"]):
            yield f"the webhook was told {types} of job {client.job_id}, which is {client.status or 'gone'}"
    if stack.receiver.forged:
        yield f"{stack.receiver.forged} messages to the webhook have bad signatures"


def _left_over(stack: Stack) -> list[str]:
    """What still lies in the store, in Redis, among temporary files and processes, when a janitor has swept."""
    found: list[str] = []

    def is_clean() -> bool:
        stack.queue.forget_expired(time.time() + 4 * FAILURE_TTL)
        found[:] = [*_files(stack), *_keys(stack), *map("process {}".format, stack.strangers())]
        return not found

    ages = {"SCRATCH_AGE": 0.0, "ORPHAN_AGE": 0.0}
    with patch.multiple(janitor, **ages):
        sweeper = janitor.Janitor(
            stack.jobs,
            stack.queue,
            stack.workers,
            stack.store,
            record_ttl_seconds=stack.settings.record_ttl_seconds,
        )
        sweeper.clean_up()
        sweeper.remove_orphans()
    try:
        stack.until(is_clean, "cleaning up", 20)
    except AssertionError:
        return [f"left over: {what}" for what in found]
    return []


def _files(stack: Stack) -> Iterator[str]:
    for kind in ("uploads", "plans", "segments", "incoming"):
        yield from stack.store.keys(f"{kind}/")
    for folder in ("state/cache/scratch" if stack.bucket_link else "store/scratch", "tmp"):
        yield from (str(path) for path in Path(stack.folder, folder).iterdir())
    for key in stack.store.keys("results/"):
        if stack.jobs.state(key.split("/")[1]) is None:
            yield f"{key} of no job"


def _keys(stack: Stack) -> Iterator[str]:
    """Keys of tasks, of leases, and of RQ's work where they do not expire."""
    for raw in stack.redis.scan_iter(count=1000):
        key = raw.decode()
        is_rqs = key.startswith("rq:") and not RQ_KEEPS.fullmatch(key) and stack.redis.ttl(key) == -1
        if is_rqs or re.match(
            r"dain:job:.*:(?!deliveries)|dain:unclean|dain:webhook|dain:idempotency:.*:lease", key
        ):
            yield key
