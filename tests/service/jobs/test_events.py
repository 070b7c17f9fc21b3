"""The stream of events: each transition of a job writes exactly one, in the step that makes it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from redis import Redis

from service.jobs.machine import Jobs
from service.jobs.names import ASSEMBLE, EVENTS, PLAN, new_job_id
from service.jobs.options import Options
from service.jobs.problems import Problem
from service.jobs.records import Output, State
from service.jobs.workers import worker_key
from service.settings import Settings
from tests.recorded import recorded


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    redis.set(worker_key("ann"), "alive")
    return Jobs.from_settings(redis, settings)


@pytest.fixture
def job_id(jobs: Jobs) -> str:
    job_id = new_job_id()
    jobs.create(job_id, source=f"uploads/{job_id}", filename="a.mp4", options=Options(), input={})
    return job_id


def types(redis: Redis) -> list[str]:
    return [event.type for event in recorded(redis)]


def output(job_id: str) -> Output:
    return Output(
        key=f"results/{job_id}/0.mp4", filename="a-2x.mp4", media_type="video/mp4", size_bytes=1, sha256="00",
        frames=24, frame_rate="48", duration_seconds=0.5,
    )  # fmt: skip


def test_the_whole_way_of_a_job(jobs: Jobs, redis: Redis, job_id: str) -> None:
    jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 24})
    jobs.complete(jobs.claim(job_id, "segment-0", "ann"), add={"frames": 24})
    claim = jobs.claim(job_id, ASSEMBLE, "ann")
    for _ in range(2):
        assert jobs.finish(job_id, State.SUCCEEDED, output=output(job_id), claim=claim)
    for _ in range(2):
        jobs.mark_expired(job_id)
    for _ in range(2):
        jobs.delete(job_id)
    assert types(redis) == [
        "job.queued", "job.started", "job.progressed", "job.progressed", "job.succeeded", "job.expired", "job.deleted",
    ]  # fmt: skip
    found = recorded(redis)
    assert {(event.version, event.job, event.owner) for event in found} == {(1, job_id, "default")}
    assert [event.time for event in found] == sorted(event.time for event in found)
    assert [event.model_extra for event in found if event.type == "job.progressed"] == [
        {"frames_done": 0, "frames_total": 24},
        {"frames_done": 24, "frames_total": 24},
    ]


def test_a_failure_carries_its_problem(jobs: Jobs, redis: Redis, job_id: str) -> None:
    for _ in range(2):
        jobs.finish(job_id, State.FAILED, error=Problem("damaged-video", "It is cut off."))
    jobs.finish(job_id, State.CANCELLED)
    assert types(redis) == ["job.queued", "job.failed"]
    error = (recorded(redis)[-1].model_extra or {})["error"]
    assert error == jobs.get(job_id).error and error["type"] == "urn:dain:problem:damaged-video"


def test_a_cancelled_job(jobs: Jobs, redis: Redis, job_id: str) -> None:
    for _ in range(2):
        jobs.cancel(job_id)
    assert types(redis) == ["job.queued", "job.cancelled"]


def test_attempts_are_no_transitions_of_the_job(jobs: Jobs, redis: Redis, job_id: str) -> None:
    jobs.release(jobs.claim(job_id, PLAN, "ann"), failed=True)
    claim = jobs.claim(job_id, PLAN, "ann")
    jobs.requeue_lost(job_id, PLAN, claim.token)
    jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 10})
    assert types(redis) == ["job.queued", "job.started", "job.progressed"]


def test_progress_is_one_event_a_percent(jobs: Jobs, redis: Redis, job_id: str) -> None:
    """However often it is reported, and however often an attempt starts again."""
    jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 1000})
    for _ in range(2):
        claim = jobs.claim(job_id, "segment-0", "ann")
        for frames in range(0, 1001, 2):
            jobs.report(claim, frames)
        jobs.release(claim, failed=True)
    assert types(redis).count("job.progressed") == 101


def test_racing_outcomes_write_one_event(jobs: Jobs, redis: Redis, job_id: str) -> None:
    start = threading.Barrier(8)

    def finish(state: State) -> None:
        start.wait()
        jobs.finish(job_id, state)

    threads = [threading.Thread(target=finish, args=(s,)) for s in (State.CANCELLED, State.FAILED) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert types(redis) == ["job.queued", f"job.{jobs.get(job_id).status}"]


def test_events_of_another_version_are_read_and_one_that_cannot_be_breaks_nothing(
    redis: Redis,
) -> None:
    event: dict[str, Any] = {
        "version": 2,
        "type": "job.paused",
        "job": "x",
        "owner": "me",
        "time": 1,
        "why": "new",
    }
    for text in ("no json", "{}", json.dumps(event)):
        redis.xadd(EVENTS, {"event": text})
    redis.xadd(EVENTS, {"other": "field"})
    [found] = recorded(redis)
    assert (found.type, found.version, found.model_extra) == ("job.paused", 2, {"why": "new"})
