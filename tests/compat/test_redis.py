"""What earlier releases left in Redis is read by this one.

`<release>/redis.json` holds every key that the release wrote for a few jobs, as its own calls made them: `jobs` names
them, `keys` has the values. Each release adds its file; none is ever changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.jobs.janitor import Janitor
from service.jobs.machine import Jobs
from service.jobs.names import ASSEMBLE, EVENTS
from service.jobs.queue import Queue
from service.jobs.records import DEFAULT_OWNER, State
from service.jobs.workers import Workers
from service.settings import Settings
from service.store import Stored, open_store
from tests.compat.jobs import read_keys, write_jobs, write_keys
from tests.recorded import recorded

RELEASES = sorted(Path(__file__).parent.glob("*/redis.json"))


@pytest.fixture(params=[*RELEASES, None], ids=lambda path: path.parent.name if path else "now")
def release(request: pytest.FixtureRequest, redis: Redis, settings: Settings) -> dict[str, Any]:
    """One release's jobs, now in Redis; None is this release, whose file is yet to be made."""
    if request.param:
        written: dict[str, Any] = json.loads(request.param.read_text())
    else:
        names = write_jobs(redis, settings, {"frames": 12})
        written = json.loads(json.dumps({"jobs": names, "keys": read_keys(redis)}))
        redis.flushall()
    write_keys(redis, written["keys"])
    return written


@pytest.fixture
def jobs(release: dict[str, Any], redis: Redis, settings: Settings) -> Jobs:
    """The jobs of the release, as they are once the janitor has swept."""
    jobs = Jobs.from_settings(redis, settings)
    jobs.index_owners()
    return jobs


def test_every_job_is_listed_as_it_was(release: dict[str, Any], jobs: Jobs) -> None:
    listed = {job.id: job for job in jobs.page(DEFAULT_OWNER)[0]}
    assert sorted(listed) == sorted(release["jobs"].values())
    found = {name: listed[job_id] for name, job_id in release["jobs"].items()}
    for name in ("queued", "running", "succeeded", "failed", "cancelled"):
        assert found[name].status is State(name)
        assert found[name].filename == "clip.mp4" and found[name].input["frames"] == 12
    assert found["queued"].options.target_fps == "60000/1001" and found["queued"].options.audio == "none"
    assert (
        found["running"].progress.frames_done == 17
        and found["running"].metrics.stage_seconds["network"] == 1.5
    )
    assert found["succeeded"].output is not None and found["succeeded"].output.frames == 36
    assert found["expired"].expired and found["expired"].options.model == "dain-lite"
    assert (found["failed"].error or {})["type"] == "urn:dain:problem:damaged-video"
    if "unreadable-then" in found:  # by the release itself, which had recorded it
        assert found["unreadable-then"].options.speed == "333333333/1000000000"
    assert all(job.error is None for job in listed.values() if job.status is not State.FAILED)
    assert all(job.owner == "default" for job in listed.values())


def test_a_running_job_goes_on(release: dict[str, Any], jobs: Jobs, redis: Redis) -> None:
    job_id = release["jobs"]["running"]
    token = release["keys"][f"dain:job:{job_id}:task:segment-1"]["token"]
    claim = jobs.claim(job_id, "segment-1", "ann-1", token)
    assert jobs.report(claim, 7)
    assert jobs.complete(claim, add={"frames": 12}) == [ASSEMBLE]
    assert jobs.task_files(job_id, ["segment-0"]) == [Stored("segments/x/0.mp4")]


def test_workers_and_the_janitor_read_it(
    release: dict[str, Any], jobs: Jobs, redis: Redis, settings: Settings
) -> None:
    workers = Workers(redis, ttl_seconds=15)
    assert [worker.error for worker in workers.all()] == [None]
    store = open_store(settings.store_url)
    janitor = Janitor(jobs, Queue(redis), workers, store, record_ttl_seconds=10**9)
    janitor.redeliver()
    janitor.tidy()
    assert jobs.unclean() == []


def test_events_are_read(release: dict[str, Any], redis: Redis) -> None:
    found = [event.type for event in recorded(redis)]
    assert len(found) == len(release["keys"].get(EVENTS, []))


def test_every_job_can_be_deleted(release: dict[str, Any], jobs: Jobs, redis: Redis) -> None:
    for job_id in release["jobs"].values():
        jobs.cancel(job_id)
        jobs.delete(job_id)
    assert jobs.page(DEFAULT_OWNER)[0] == [] and not redis.keys("dain:job:*")
