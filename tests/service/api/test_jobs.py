"""GET /jobs/{id}: its ETag, and answers that wait for a change."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from redis import Redis

from service.api.feed import Feed
from service.jobs.machine import Claim, Jobs
from service.jobs.names import PLAN, new_job_id
from service.jobs.options import Options
from service.jobs.records import Job, State
from service.settings import Settings
from tests.api import assert_problem, away, serve, until

pytestmark = pytest.mark.usefixtures("feeds")  # before the service is started


@pytest.fixture
def job(jobs: Jobs) -> Job:
    job_id = new_job_id()
    return jobs.create(
        job_id, source=f"uploads/{job_id}", filename="clip.mp4", options=Options(), input={"frames": 12}
    )


def planned(jobs: Jobs, job: Job) -> Claim:
    jobs.complete(jobs.claim(job.id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 1000})
    return jobs.claim(job.id, "segment-0", "ann")


# -- ETag -----------------------------------------------------------------------------------------


def test_the_etag_is_another_with_each_state_and_percent(http: httpx.Client, jobs: Jobs, job: Job) -> None:
    def look() -> str:
        response = http.get(f"/jobs/{job.id}")
        etag = response.headers["ETag"]
        assert etag.startswith('W/"')
        again = http.get(f"/jobs/{job.id}", headers={"If-None-Match": etag})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
        return etag

    seen = [look()]
    claim = planned(jobs, job)
    seen.append(look())
    jobs.report(claim, 100)
    seen.append(look())
    jobs.report(claim, 101)  # of 1000: the same percent
    assert look() == seen[-1]
    jobs.cancel(job.id)
    seen.append(look())
    assert len(set(seen)) == len(seen)
    other = http.get(f"/jobs/{job.id}", headers={"If-None-Match": f'"other", {seen[0]}'})
    assert other.status_code == 200 and other.json()["status"] == "cancelled"


# -- waiting --------------------------------------------------------------------------------------


Ask = Callable[..., "Future[httpx.Response]"]


@pytest.fixture
def ask(http: httpx.Client, job: Job, feeds: list[Feed]) -> Iterator[Ask]:
    """Asks for the job and returns once the service waits with its answer."""
    with ThreadPoolExecutor() as pool:

        def get(etag: str | None = None) -> Future[httpx.Response]:
            headers = {"If-None-Match": etag} if etag else {}
            answer = pool.submit(
                http.get, f"/jobs/{job.id}", params={"wait": 60}, headers=headers, timeout=90
            )
            until(lambda: feeds[0].waiters or answer.done())
            return answer

        yield get


def test_the_answer_comes_with_the_next_state(ask: Ask, jobs: Jobs, job: Job) -> None:
    answer = ask()
    claim = planned(jobs, job)
    assert answer.result().json()["status"] == "running"
    answer = ask()
    jobs.report(claim, 500)
    jobs.cancel(job.id)
    assert answer.result().json()["status"] == "cancelled"
    assert ask().result().json()["status"] == "cancelled"  # at once: it is over


def test_with_an_etag_the_answer_comes_with_the_next_percent(ask: Ask, jobs: Jobs, job: Job) -> None:
    claim = planned(jobs, job)
    first = ask(etag='"of another state"').result()
    assert first.status_code == 200
    answer = ask(etag=first.headers["ETag"])
    jobs.report(claim, 500)
    assert answer.result().json()["progress"]["frames_done"] == 500


def test_the_time_is_up(http: httpx.Client, job: Job) -> None:
    response = http.get(f"/jobs/{job.id}", params={"wait": 0.01})
    assert response.json()["status"] == "queued" and response.headers["Retry-After"]
    headers = {"If-None-Match": response.headers["ETag"]}
    assert http.get(f"/jobs/{job.id}", params={"wait": 0.01}, headers=headers).status_code == 304


def test_a_change_just_before_the_wait_is_not_missed(
    http: httpx.Client, jobs: Jobs, job: Job, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    show = Jobs.show

    def show_what_is_over(self: Jobs, job_id: str, **owner: str) -> Job:
        shown = show(self, job_id, **owner)
        if not shown.status.terminal:
            with feeds[0].waiting(job_id) as passed:
                jobs.finish(job_id, State.CANCELLED)
                until(passed.is_set)
        return shown

    monkeypatch.setattr(Jobs, "show", show_what_is_over)
    assert http.get(f"/jobs/{job.id}", params={"wait": 60}).json()["status"] == "cancelled"


@pytest.mark.parametrize("wait", ["1e9", "61", "-1", "nan", "inf", "soon"])
def test_a_wait_out_of_range(wait: str, http: httpx.Client, job: Job) -> None:
    response = http.get(f"/jobs/{job.id}", params={"wait": wait})
    assert f"wait was '{wait}'" in assert_problem(response, 422, "invalid-request")["detail"]


@pytest.mark.parametrize("path", ["/jobs/{}?wait=60", "/jobs/{}/events"])
def test_hundreds_wait_without_a_thread_or_a_connection_to_redis_each(
    path: str, http: httpx.Client, url: str, jobs: Jobs, job: Job, feeds: list[Feed]
) -> None:
    host, port = url.removeprefix("http://").split(":")
    request = f"GET {path.format(job.id)} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(200)
        ]
        for connection in waiting:
            connection.sendall(request)
        until(lambda: feeds[0].waiters == len(waiting))
        assert http.get("/jobs").json()["jobs"][0]["status"] == "queued"  # a route that takes a thread
        jobs.cancel(job.id)
        for connection in waiting:
            with connection.makefile("rb") as answer:
                assert b"cancelled" in answer.read()


def test_who_has_gone_is_waited_for_no_more(url: str, job: Job, feeds: list[Feed]) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"GET /jobs/{job.id}?wait=60 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        until(lambda: feeds[0].waiters)
    until(lambda: not feeds[0].waiters)


def test_what_happened_while_redis_was_away_is_seen(
    ask: Ask, jobs: Jobs, job: Job, redis: Redis, settings: Settings
) -> None:
    answer = ask()
    with away(redis, settings):
        jobs.cancel(job.id)
    assert answer.result().json()["status"] == "cancelled"


def test_the_end_of_the_service_ends_the_wait(settings: Settings, job: Job, feeds: list[Feed]) -> None:
    with ThreadPoolExecutor() as pool, serve(settings) as url:
        answer = pool.submit(httpx.get, f"{url}/jobs/{job.id}", params={"wait": 60}, timeout=90, verify=False)
        until(lambda: feeds[0].waiters)
    assert answer.result().json()["status"] == "queued"
