"""Records that another version wrote, or that are broken: shown as what they are, and they break nothing."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from service.jobs.machine import Jobs
from service.jobs.names import PLAN, job_key, new_job_id
from service.jobs.options import Options
from service.jobs.problems import Problem
from service.jobs.records import DEFAULT_OWNER, VERSION, State, UnreadableRecord
from service.jobs.workers import NAMES, WorkerRecord, Workers, worker_key
from service.settings import Settings
from tests.api import serve


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    return Jobs.from_settings(redis, settings)


@pytest.fixture
def http(settings: Settings) -> Iterator[httpx.Client]:
    with serve(settings) as url, httpx.Client(base_url=url, timeout=60, verify=False) as http:
        yield http


def accept(jobs: Jobs, **options: object) -> str:
    job_id = new_job_id()
    jobs.create(
        job_id, source=f"uploads/{job_id}", filename="a.mp4", options=Options(**options), input={"frames": 12}
    )
    return job_id


BROKEN = [
    ({"options": "{"}, ["options"], State.QUEUED),
    ({"options": '{"speed": "fast"}'}, ["options"], State.QUEUED),
    ({"input": "[]", "notes": "text"}, ["input", "notes"], State.QUEUED),
    ({"frames": "nan", "created_at": "yesterday"}, ["created_at", "frames"], State.QUEUED),
    ({"state": "paused"}, ["state"], State.UNKNOWN),
    ({"output": "{}", "error": "null,"}, ["error", "output"], State.QUEUED),
    ({"created_at": "inf", "seconds_decode": "nan"}, ["created_at"], State.QUEUED),
    ({"options": '{"scene_threshold": "nan"}'}, ["options"], State.QUEUED),
    ({"input": '{"duration": NaN}', "facts": "[" * 100_000}, ["facts", "input"], State.QUEUED),
    ({"filename": b"\xff.mp4", "version": "next"}, ["version"], State.QUEUED),
]


@pytest.mark.parametrize(("fields", "names", "status"), BROKEN)
def test_a_record_that_cannot_be_read_is_shown_as_such(
    jobs: Jobs, redis: Redis, fields: dict[str, str], names: list[str], status: State
) -> None:
    job_id, other = accept(jobs), accept(jobs)
    redis.hset(job_key(job_id), mapping=fields)  # type: ignore[arg-type]
    with pytest.raises(
        UnreadableRecord
    ):  # whoever works on the job must not take defaults for what was asked
        jobs.get(job_id)
    shown = {job.id: job for job in jobs.page(DEFAULT_OWNER)[0]}
    assert shown.keys() == {job_id, other} and shown[other].error is None
    job = shown[job_id]
    assert job.status is status and job == jobs.show(job_id)
    assert job.error is not None and job.error["type"] == "urn:dain:problem:unreadable-record"
    assert job.error["fields"] == names and all(name in job.error["detail"] for name in names)


@pytest.mark.parametrize(("fields", "names", "status"), BROKEN)
def test_over_http_it_can_be_looked_at_and_removed(
    jobs: Jobs, redis: Redis, http: httpx.Client, fields: dict[str, str], names: list[str], status: State
) -> None:
    job_id = accept(jobs)
    redis.hset(job_key(job_id), mapping=fields)  # type: ignore[arg-type]
    [listed] = http.get("/jobs").json()["jobs"]
    shown = http.get(f"/jobs/{job_id}").json()
    assert listed["id"] == shown["id"] == job_id and listed["status"] == shown["status"] == status
    assert shown["error"]["type"] == "urn:dain:problem:unreadable-record"
    while http.get(f"/jobs/{job_id}").status_code == 200:
        assert http.delete(f"/jobs/{job_id}").status_code in (200, 204)
    assert http.get("/jobs").json()["jobs"] == [] and not redis.keys("dain:job:*")


def test_a_later_versions_record_is_read_and_its_fields_are_kept(jobs: Jobs, redis: Redis) -> None:
    job_id = accept(jobs)
    redis.hset(
        job_key(job_id), mapping={"version": "99", "region": "eu", "options": '{"factor": 4, "codec": "av1"}'}
    )
    job = jobs.get(job_id)
    assert (job.version, job.options.factor) == (99, 4)
    claim = jobs.claim(job_id, PLAN, "ann")
    jobs.complete(claim, job={"segments_total": 1, "frames_total": 24})
    jobs.cancel(job_id)
    fields = redis.hgetall(job_key(job_id))
    assert fields[b"region"] == b"eu" and b"av1" in fields[b"options"]


def test_a_new_record_says_what_it_is(jobs: Jobs) -> None:
    job = jobs.get(accept(jobs))
    assert (job.version, job.owner, job.notes, job.facts) == (VERSION, "default", [], {})


def test_another_owners_job_is_absent(jobs: Jobs) -> None:
    job_id = new_job_id()
    jobs.create(job_id, source="uploads/x", filename="a.mp4", options=Options(), input={}, owner="ann")
    assert jobs.get(job_id, owner="ann").owner == jobs.get(job_id).owner == "ann"
    with pytest.raises(Problem, match="no job"):
        jobs.show(job_id, owner="bob")


def test_a_workers_record_that_cannot_be_read_breaks_no_list(redis: Redis, http: httpx.Client) -> None:
    workers = Workers(redis, ttl_seconds=15)
    workers.heartbeat(
        WorkerRecord(
            name="ann",
            host="here",
            pid=1,
            device="cpu",
            device_name="cpu",
            backend="cpu",
            model="dain",
            precision="fp32",
            ready=True,
            started_at=0.0,
        )  # fmt: skip
    )
    redis.sadd(NAMES, "bob", "eve")
    redis.set(worker_key("bob"), '{"name": "bob", "of a later": "version"}')
    redis.set(worker_key("eve"), "alive")
    assert [(worker.name, worker.ready, worker.error is None) for worker in workers.all()] == [
        ("ann", True, True), ("bob", False, False), ("eve", False, False),
    ]  # fmt: skip
    assert [worker["name"] for worker in http.get("/workers").json()] == ["ann", "bob", "eve"]
