"""GET /jobs/{id}/preview: the newest picture of what a running job makes."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from redis import Redis

from service.jobs.machine import Claim, Jobs, Standing
from service.jobs.names import PLAN, job_key
from service.jobs.records import Job, State
from tests.api import assert_problem

PICTURE = b"\xff\xd8 a picture"


@pytest.fixture
def claim(job: Job, jobs: Jobs) -> Claim:
    """The first segment of a job that runs."""
    plan = jobs.claim(job.id, PLAN, "ann")
    jobs.complete(plan, job={"segments_total": 2, "frames_total": 20})
    return jobs.claim(job.id, "segment-0", "ann")


def test_whoever_asks_sees_the_newest(http: httpx.Client, job: Job, jobs: Jobs, claim: Claim) -> None:
    link = http.get(f"/jobs/{job.id}").json()["links"]["preview"]
    assert jobs.report(claim, 1) is Standing.VALID  # nobody looks
    response = http.get(link)
    assert "Ask again" in assert_problem(response, 404, "no-preview")["detail"]
    assert response.headers["Retry-After"] == "2"
    assert jobs.report(claim, 2) is Standing.WATCHED
    assert jobs.report(claim, 3, picture=b"older") and jobs.report(claim, 4, picture=PICTURE)
    response = http.get(link)
    assert (response.status_code, response.content) == (200, PICTURE)
    assert (response.headers["Content-Type"], response.headers["Cache-Control"]) == ("image/jpeg", "no-cache")
    again = http.get(link, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert jobs.report(claim, 5, picture=b"newer")
    assert http.get(link, headers={"If-None-Match": response.headers["ETag"]}).content == b"newer"


def test_there_is_none_before_the_job_runs_nor_after(
    http: httpx.Client, job: Job, jobs: Jobs, redis: Redis
) -> None:
    assert "queued" in assert_problem(http.get(f"/jobs/{job.id}/preview"), 404, "no-preview")["detail"]
    plan = jobs.claim(job.id, PLAN, "ann")
    http.get(f"/jobs/{job.id}/preview")
    assert jobs.report(plan, 0, picture=PICTURE)
    jobs.finish(job.id, State.CANCELLED)
    response = http.get(f"/jobs/{job.id}/preview")
    assert f"GET /jobs/{job.id}" in assert_problem(response, 404, "no-preview")["detail"]
    assert "Retry-After" not in response.headers
    assert not jobs.report(plan, 1, picture=PICTURE)  # too late
    assert redis.keys(job_key(job.id, "picture")) == redis.keys(job_key(job.id, "watched")) == []


def test_pictures_are_kept_for_a_while_only(redis: Redis, job: Job, jobs: Jobs, claim: Claim) -> None:
    assert jobs.picture(job.id) is None and jobs.report(claim, 1, picture=PICTURE)
    assert (
        0 < redis.ttl(job_key(job.id, "picture")) <= 600 and 0 < redis.ttl(job_key(job.id, "watched")) <= 30
    )


def test_another_owners_job_has_none(
    http: httpx.Client, job: Job, jobs: Jobs, claim: Claim, make_key: Callable[..., dict[str, str]]
) -> None:
    mine, other = make_key("default"), make_key("eve")
    jobs.picture(job.id)
    assert jobs.report(claim, 1, picture=PICTURE)
    path = f"/jobs/{job.id}/preview"
    assert_problem(http.get(path), 401, "unauthorized")
    assert_problem(http.get(path, headers=other), 404, "job-not-found")
    assert_problem(http.get(path, headers=make_key("default", "submit")), 403, "forbidden")
    assert http.get(path, headers=mine).content == PICTURE
