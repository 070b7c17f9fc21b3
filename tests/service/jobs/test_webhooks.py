"""The queue of deliveries: what is queued, who may take it, what is left on record."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from redis import Redis

from service.jobs.machine import Jobs
from service.jobs.names import PLAN, job_key
from service.jobs.options import Handling, Options
from service.jobs.problems import Problem
from service.jobs.records import State
from service.jobs.webhooks import DESTINATIONS, MOST_LOGGED, Attempt, Deliveries, Delivery
from service.jobs.workers import worker_key
from service.settings import Settings
from tests.recorded import recorded

ALL = ["job.started", "job.progressed", "job.succeeded", "job.failed", "job.cancelled"]
URL = "https://hooks.example/dain?a=b"


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    redis.set(worker_key("ann"), "alive")
    return Jobs.from_settings(redis, settings)


@pytest.fixture
def deliveries(redis: Redis) -> Deliveries:
    return Deliveries(redis)


def submit(jobs: Jobs, url: str | None = URL, events: list[str] = ALL, owner: str = "default") -> str:
    job_id = jobs.new_id()
    handling = Handling(webhook_url=url, webhook_events=events)
    jobs.create(
        job_id,
        source="uploads/x",
        filename="a.mp4",
        options=Options(),
        handling=handling,
        input={},
        owner=owner,
    )
    return job_id


def take(deliveries: Deliveries, most: int = 100, **arguments: Any) -> list[Delivery]:
    """All that is due, which a sender takes one a destination at a time."""
    return [each for _ in range(9) for each in deliveries.take(most, loan_seconds=60, **arguments)]


def settle(deliveries: Deliveries, delivery: Delivery, outcome: str = "delivered", **arguments: Any) -> bool:
    entry = Attempt(
        message=delivery.message, type=delivery.event.type, attempt=delivery.attempt, outcome=outcome
    )
    return deliveries.settle(delivery, entry, **arguments)


def types(taken: list[Delivery]) -> list[str]:
    return [delivery.event.type for delivery in taken]


def left(redis: Redis) -> list[bytes]:
    return redis.keys("dain:webhook*")


def test_the_transition_queues_its_delivery_with_the_record_as_it_was(
    redis: Redis, jobs: Jobs, deliveries: Deliveries
) -> None:
    job_id = submit(jobs)
    claim = jobs.claim(job_id, PLAN, "ann")
    jobs.finish(job_id, State.FAILED, error=Problem("damaged-video", "Frame 3 is damaged."), claim=claim)
    jobs.delete(job_id)
    started, failed = take(deliveries)
    assert types([started, failed]) == ["job.started", "job.failed"]
    assert (started.record["state"], failed.record["state"]) == ("running", "failed")
    assert json.loads(failed.record["error"])["detail"] == "Frame 3 is damaged."
    assert "facts" not in failed.record
    events = {event.id: event.type for event in recorded(redis)}
    assert events[failed.event.id] == "job.failed"
    assert failed.message == f"msg_{job_id}_{failed.event.id}"
    assert failed.url == URL and failed.destination == "default https://hooks.example"
    assert all(settle(deliveries, delivery) for delivery in (started, failed))
    assert not left(redis) and not redis.exists(job_key(job_id, "deliveries"))


def test_a_job_without_a_webhook_queues_nothing(redis: Redis, jobs: Jobs) -> None:
    jobs.finish(submit(jobs, None), State.CANCELLED)
    assert not left(redis)


def test_only_the_events_that_were_asked_for_are_queued(jobs: Jobs, deliveries: Deliveries) -> None:
    job_id = submit(jobs, events=["job.cancelled"])
    jobs.claim(job_id, PLAN, "ann")
    jobs.cancel(job_id)
    assert types(take(deliveries)) == ["job.cancelled"]


def test_progress_is_queued_now_and_then(redis: Redis, jobs: Jobs, deliveries: Deliveries) -> None:
    job_id = submit(jobs)
    jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 100})
    claim = jobs.claim(job_id, "segment-0", "ann")
    for frames in range(1, 20):
        jobs.report(claim, frames)
    assert types(take(deliveries)) == ["job.started", "job.progressed"]
    redis.hset(job_key(job_id), "webhook_progressed_at", time.time() - 11)
    jobs.report(claim, 50)
    (progress,) = take(deliveries)
    assert progress.event.model_extra and progress.event.model_extra["frames_done"] == 50


def test_what_is_lent_is_nobody_elses_until_the_loan_runs_out(
    redis: Redis, jobs: Jobs, deliveries: Deliveries
) -> None:
    jobs.cancel(submit(jobs))
    (first,) = deliveries.take(1, loan_seconds=60)
    assert first.attempt == 1
    assert not deliveries.take(1, loan_seconds=60)
    redis.zadd(DESTINATIONS, {first.destination: 0})
    redis.zadd(f"{DESTINATIONS}:to:{first.destination}", {first.event.id: 0})
    (second,) = deliveries.take(1, loan_seconds=60)
    assert (second.message, second.attempt) == (first.message, 2)
    assert not settle(deliveries, first, "failed", again_in=0)  # what the first finds out now changes nothing
    assert not deliveries.take(1, loan_seconds=60)
    assert settle(deliveries, first)  # unless it did arrive
    assert not settle(deliveries, second)


def test_a_failed_attempt_is_due_again_and_on_record(jobs: Jobs, deliveries: Deliveries) -> None:
    job_id = submit(jobs)
    jobs.cancel(job_id)
    (delivery,) = take(deliveries)
    settle(deliveries, delivery, "failed", again_in=0)
    (again,) = take(deliveries)
    assert (again.attempt, again.message, again.record) == (2, delivery.message, delivery.record)
    settle(deliveries, again, "failed", again_in=300)
    assert not take(deliveries)
    newest, oldest = deliveries.log(job_id)
    assert (newest.attempt, oldest.attempt) == (2, 1)
    assert newest.next_attempt_at == pytest.approx(newest.time + 300)


def test_a_clock_that_is_set_back_keeps_nothing_waiting(
    redis: Redis, jobs: Jobs, deliveries: Deliveries
) -> None:
    jobs.cancel(submit(jobs))
    jobs.cancel(submit(jobs))
    lent, failed = take(deliveries)
    settle(deliveries, failed, "failed", again_in=3600)
    assert not take(deliveries)
    redis.set("dain:clock", time.time() + 3600)
    assert {delivery.message for delivery in take(deliveries)} == {lent.message, failed.message}
    assert not take(deliveries)


def test_a_delivery_that_cannot_be_read_keeps_no_other_waiting(
    redis: Redis, jobs: Jobs, deliveries: Deliveries
) -> None:
    for url in ("https://a.example/", "https://b.example/"):
        jobs.cancel(submit(jobs, url))
    damaged = redis.zrange(f"{DESTINATIONS}:to:default https://a.example", 0, 0)[0].decode()
    redis.hset(f"dain:webhook:{damaged}", "event", "{")
    (other,) = take(deliveries)
    assert other.destination == "default https://b.example"
    assert redis.exists(f"dain:webhook:{damaged}")


def test_no_destination_fills_redis(redis: Redis, jobs: Jobs, deliveries: Deliveries) -> None:
    waiting = {f"{number}-0": number for number in range(10_000)}
    redis.zadd(f"{DESTINATIONS}:to:default https://hooks.example", waiting)
    job_id, other = submit(jobs), submit(jobs, "https://other.example/")
    for each in (job_id, other):
        jobs.cancel(each)
    (entry,) = deliveries.log(job_id)
    assert (entry.outcome, entry.type, entry.attempt) == ("given_up", "job.cancelled", 0)
    assert "10000 of your messages were waiting" in str(entry.error)
    assert redis.zcard(f"{DESTINATIONS}:to:default https://hooks.example") == 10_000
    assert redis.zcard(f"{DESTINATIONS}:to:default https://other.example") == 1


def test_destinations_take_turns(jobs: Jobs, deliveries: Deliveries) -> None:
    for number in range(6):
        jobs.cancel(submit(jobs, f"https://slow.example/{number}"))
    jobs.cancel(submit(jobs, "https://other.example/"))
    first = deliveries.take(10, loan_seconds=60)
    assert [each.destination for each in first] == [
        "default https://slow.example",
        "default https://other.example",
    ]
    assert not deliveries.take(10, loan_seconds=60, busy=["default https://slow.example"])
    assert len(deliveries.take(10, loan_seconds=60)) == 1


def test_a_busy_destination_hides_nobody(jobs: Jobs, deliveries: Deliveries) -> None:
    busy = [f"https://busy-{number}.example" for number in range(3)]
    for url in [*busy, "https://other.example"]:
        jobs.cancel(submit(jobs, url + "/"))
    (other,) = deliveries.take(1, loan_seconds=60, busy=[f"default {url}" for url in busy])
    assert other.destination == "default https://other.example"


def test_owners_with_one_host_have_lines_of_their_own(
    redis: Redis, jobs: Jobs, deliveries: Deliveries
) -> None:
    hung = "ann https://hooks.example"
    redis.zadd(f"{DESTINATIONS}:to:{hung}", {f"{number}-0": time.time() + 60 for number in range(10_000)})
    jobs.cancel(submit(jobs, "https://hooks.example/hangs", owner="ann"))
    jobs.cancel(submit(jobs, "https://hooks.example/answers", owner="bob"))
    (delivery,) = deliveries.take(10, loan_seconds=60, busy=[hung])
    assert (delivery.destination, delivery.event.owner) == ("bob https://hooks.example", "bob")


def test_a_delivery_in_a_line_of_an_older_version_goes_on(
    redis: Redis, jobs: Jobs, deliveries: Deliveries
) -> None:
    jobs.cancel(submit(jobs))
    line, older = "default https://hooks.example", "https://hooks.example"
    [(event_id, due)] = redis.zrange(f"{DESTINATIONS}:to:{line}", 0, -1, withscores=True)
    redis.rename(f"{DESTINATIONS}:to:{line}", f"{DESTINATIONS}:to:{older}")
    redis.hset(f"dain:webhook:{event_id.decode()}", "destination", older)
    redis.delete(DESTINATIONS)
    redis.zadd(DESTINATIONS, {older: due})
    (delivery,) = take(deliveries)
    assert (delivery.destination, delivery.url) == (older, URL)
    assert settle(deliveries, delivery) and not left(redis)


def test_a_webhook_that_is_gone_gets_nothing_more_of_the_job(jobs: Jobs, deliveries: Deliveries) -> None:
    job_id, other = submit(jobs), submit(jobs)
    jobs.claim(job_id, PLAN, "ann")
    (started,) = take(deliveries)
    settle(deliveries, started, "given_up", gone=True)
    assert deliveries.is_gone(job_id)
    jobs.cancel(job_id)
    assert not take(deliveries)
    jobs.cancel(other)
    assert types(take(deliveries)) == ["job.cancelled"]


def test_the_log_is_bounded_and_goes_with_the_job(redis: Redis, jobs: Jobs, deliveries: Deliveries) -> None:
    job_id = submit(jobs)
    jobs.cancel(job_id)
    for _ in range(MOST_LOGGED + 3):
        (delivery,) = take(deliveries)
        settle(deliveries, delivery, "failed", again_in=0)
    log = deliveries.log(job_id)
    assert [entry.attempt for entry in log] == list(range(MOST_LOGGED + 3, 3, -1))
    jobs.delete(job_id)
    (delivery,) = take(deliveries)
    settle(deliveries, delivery)
    assert not redis.exists(job_key(job_id, "deliveries"))
    assert not redis.exists(DESTINATIONS)


def test_what_no_sender_takes_is_late(redis: Redis, jobs: Jobs, deliveries: Deliveries) -> None:
    assert deliveries.late_seconds() == 0
    jobs.cancel(submit(jobs))
    redis.zincrby(DESTINATIONS, -60, "default https://hooks.example")
    assert 60 <= deliveries.late_seconds() < 90
    (delivery,) = take(deliveries)
    assert deliveries.late_seconds() == 0  # somebody has it
    settle(deliveries, delivery, "failed", again_in=300)
    assert deliveries.late_seconds() == 0
    assert jobs.counters()["webhooks_failed"] == 1
