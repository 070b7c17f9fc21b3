"""Jobs once they are on record: looking, listing, cancelling, removing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import httpx
import pytest

from service.jobs.machine import Jobs
from service.jobs.options import Options
from service.jobs.records import Job
from service.store import Store
from tests.api import RESULT, assert_problem

# -- looking --------------------------------------------------------------------------------------


def test_a_live_job(http: httpx.Client, job: Job, jobs: Jobs) -> None:
    response = http.get(f"/jobs/{job.id}")
    assert int(response.headers["Retry-After"]) > 0
    assert response.json()["progress"]["queue_position"] == 0
    assert response.json()["links"] == {"self": f"/jobs/{job.id}"}


def test_a_finished_job(http: httpx.Client, finished: Job) -> None:
    response = http.get(f"/jobs/{finished.id}")
    assert "Retry-After" not in response.headers
    shown = response.json()
    assert shown["status"] == "succeeded"
    assert shown["links"]["result"] == f"/jobs/{finished.id}/result"
    assert shown["output"]["sha256"] == hashlib.sha256(RESULT).hexdigest()
    assert "key" not in shown["output"] and "source" not in shown  # places in the store are nobody's business


def test_what_is_dropped_is_said_and_whose_the_job_is_is_not(http: httpx.Client, jobs: Jobs) -> None:
    job = jobs.create(
        jobs.new_id(),
        source="uploads/x",
        filename="clip.mp4",
        options=Options(),
        input={},
        notes=["The sound is gone."],
    )
    shown = http.get(f"/jobs/{job.id}").json()
    assert shown["notes"] == ["The sound is gone."] and "owner" not in shown
    assert http.get("/jobs").json()["jobs"][0]["notes"] == ["The sound is gone."]


@pytest.mark.parametrize("job_id", ["0" * 28, "x", "..%2f..%2fetc", "0" * 5000, "*", "%00"])
@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}/result"])
def test_there_is_no_such_job(job_id: str, path: str, http: httpx.Client) -> None:
    response = http.get(path.format(job_id))
    assert response.status_code == 404
    assert len(response.content) < 10_000
    assert response.headers["Content-Type"] == "application/problem+json"


def test_pages_are_newest_first_and_whole(
    http: httpx.Client, make_job: Callable[[], Job], jobs: Jobs
) -> None:
    made = [make_job().id for _ in range(5)]
    seen, query = [], {"limit": "2"}
    while True:
        page = http.get("/jobs", params=query).json()
        seen += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == made[::-1]
    jobs.cancel(made[2])
    assert [job["id"] for job in http.get("/jobs?status=cancelled").json()["jobs"]] == [made[2]]
    assert len(http.get("/jobs?status=queued").json()["jobs"]) == 4


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "status=lost", "cursor=%5B", "cursor=../x"]
)
def test_what_cannot_be_listed(query: str, http: httpx.Client) -> None:
    problem = assert_problem(http.get(f"/jobs?{query}"), 422, "invalid-request")
    assert query.partition("=")[0] in problem["detail"]


# -- cancelling and removing ----------------------------------------------------------------------


def test_delete_cancels_and_then_removes(http: httpx.Client, job: Job) -> None:
    response = http.delete(f"/jobs/{job.id}")
    assert response.status_code == 200
    assert response.json()["status"] == "cancelled"
    assert http.delete(f"/jobs/{job.id}").status_code == 204
    assert_problem(http.delete(f"/jobs/{job.id}"), 404, "job-not-found")


def test_delete_removes_a_finished_job_and_its_result(
    http: httpx.Client, finished: Job, store: Store
) -> None:
    response = http.delete(f"/jobs/{finished.id}")
    assert response.status_code == 204
    assert response.content == b""
    assert list(store.keys("results/")) == []
    assert_problem(http.get(f"/jobs/{finished.id}"), 404, "job-not-found")
    assert http.get("/jobs").json()["jobs"] == []
