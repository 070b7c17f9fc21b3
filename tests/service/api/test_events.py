"""Server-sent events: what is sent, from where on, to whom, and what ends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api import auth, feed, server
from service.api.feed import Feed
from service.jobs.events import Event
from service.jobs.keys import Scope
from service.jobs.machine import Jobs
from service.jobs.names import EVENTS, PLAN, new_job_id
from service.jobs.options import Options
from service.jobs.problems import Problem
from service.jobs.records import State
from service.settings import Settings
from tests.api import assert_problem, away, until

pytestmark = pytest.mark.usefixtures("feeds")  # before the service is started

Message = dict[str, Any]


def accept(jobs: Jobs, owner: str = "default") -> str:
    job_id = new_job_id()
    jobs.create(
        job_id, source=f"uploads/{job_id}", filename="clip.mp4", options=Options(), input={}, owner=owner
    )
    return job_id


@contextmanager
def stream(http: httpx.Client, path: str, place: str | None = None) -> Iterator[Iterator[Message]]:
    """The messages of a stream: `id`, `event` and `data` of each, one with only an id left out."""
    headers = {} if place is None else {"Last-Event-ID": place}
    with http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Cache-Control"] == "no-store"
        yield messages(response.iter_lines())


def messages(lines: Iterator[str]) -> Iterator[Message]:
    fields: Message = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                yield fields | {"data": json.loads(fields["data"])}
            fields = {}


def types(found: Iterator[Message]) -> list[str]:
    return [message["event"] for message in found]


def run_through(jobs: Jobs, job_id: str) -> None:
    jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 4})
    jobs.complete(jobs.claim(job_id, "segment-0", "ann"), add={"frames": 4})
    jobs.cancel(job_id)


WHOLE = ["job.started", "job.progressed", "job.progressed", "job.cancelled"]


def test_a_job_is_shown_and_followed_to_its_end(http: httpx.Client, jobs: Jobs) -> None:
    other, job_id = accept(jobs), accept(jobs)
    with stream(http, f"/jobs/{job_id}/events") as events:
        first = next(events)
        assert first["event"] == "job" and first["data"]["status"] == "queued"
        jobs.cancel(other)
        run_through(jobs, job_id)
        seen = list(events)
    assert types(iter(seen)) == WHOLE
    for message in seen:
        assert message["data"]["job"] == job_id and message["data"]["type"] == message["event"]
        assert message["data"]["id"] == message["id"]
    assert seen[2]["data"]["frames_done"] == seen[2]["data"]["frames_total"] == 4


def test_after_the_last_event_seen_the_next_follows(http: httpx.Client, jobs: Jobs) -> None:
    job_id = accept(jobs)
    with stream(http, f"/jobs/{job_id}/events") as events:
        place = next(events)["id"]
    run_through(jobs, job_id)
    with stream(http, f"/jobs/{job_id}/events", place) as events:
        seen = list(events)
    assert types(iter(seen)) == WHOLE
    for index, message in enumerate(seen[:-1]):
        with stream(http, f"/jobs/{job_id}/events", message["id"]) as events:
            assert types(events) == WHOLE[index + 1 :]
    end = http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": seen[-1]["id"]})
    assert end.status_code == 204  # upon which an EventSource connects no more


def test_a_job_that_is_over_is_shown_and_no_more(http: httpx.Client, jobs: Jobs) -> None:
    job_id = accept(jobs)
    jobs.cancel(job_id)
    with stream(http, f"/jobs/{job_id}/events") as events:
        [only] = events
    assert only["event"] == "job" and only["data"]["status"] == "cancelled"
    headers = {"Last-Event-ID": only["id"]}
    assert http.get(f"/jobs/{job_id}/events", headers=headers).status_code == 204


def test_no_line_ends_in_a_carriage_return(
    http: httpx.Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "FOLLOWED_SECONDS", 0.0)
    job_id = accept(jobs)
    sent = http.get(f"/jobs/{job_id}/events").content
    monkeypatch.undo()
    run_through(jobs, job_id)
    sent += http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": f"{2**63}-0"}).content
    with http.stream("GET", "/events", headers={"Last-Event-ID": "0"}) as response:
        sent += next(chunk for chunk in response.iter_raw() if b"job.queued" in chunk)
    for line in (b"event: job\n", b"retry: 3000\n", b"event: reset\n", b"event: job.queued\n"):
        assert line in sent
    assert b"\r" not in sent


def test_all_jobs_from_now_on(http: httpx.Client, jobs: Jobs) -> None:
    accept(jobs)
    with stream(http, "/events") as events:
        made = [accept(jobs), accept(jobs)]
        assert [next(events)["data"]["job"] for _ in made] == made


@pytest.mark.parametrize("kept", [1, 5000])
def test_all_events_that_are_kept(
    kept: int, http: httpx.Client, jobs: Jobs, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEPT", kept)  # in the memory of the service; the rest is read from Redis
    monkeypatch.setattr(feed, "BATCH", 3)
    job_id = accept(jobs)
    run_through(jobs, job_id)
    with stream(http, "/events", "0") as events:
        assert [next(events)["event"] for _ in range(5)] == ["job.queued", *WHOLE]
        accept(jobs)
        assert next(events)["event"] == "job.queued"


@pytest.mark.parametrize("place", ["1-0", "18446744073709551615-0"])
def test_events_that_are_not_kept_are_a_reset(
    place: str, http: httpx.Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEPT", 0)
    first, job_id = accept(jobs), accept(jobs)
    with stream(http, "/events", place) as events:
        reset = next(events)
        assert reset["event"] == "reset" and "no longer kept" in reset["data"]["detail"]
        assert [next(events)["data"]["job"] for _ in range(2)] == [first, job_id]
    with stream(http, f"/jobs/{job_id}/events", place) as events:
        assert [next(events)["event"] for _ in range(2)] == ["reset", "job"]
        jobs.cancel(job_id)
        assert types(events) == ["job.cancelled"]
    with stream(http, f"/jobs/{job_id}/events", place) as events:
        assert types(events) == ["reset", "job"]


@pytest.mark.parametrize(
    "place",
    ["yesterday", "1-2-3", "-1", "18446744073709551616-0", f"{2**64 - 1}-{2**64 - 1}", "٣-0", "9" * 5000],
)
def test_what_is_no_id_of_an_event(place: str, http: httpx.Client, jobs: Jobs) -> None:
    headers = {"Last-Event-ID": place.encode()}
    for path in ("/events", f"/jobs/{accept(jobs)}/events"):
        problem = assert_problem(http.get(path, headers=headers), 400, "invalid-event-id")
        assert "Last-Event-ID" in problem["detail"] and len(problem["detail"]) < 300


def test_an_event_that_cannot_be_read_is_passed_over(http: httpx.Client, jobs: Jobs, redis: Redis) -> None:
    with stream(http, "/events") as events:
        redis.xadd(EVENTS, {"event": "{"})
        job_id = accept(jobs)
        assert next(events)["data"]["job"] == job_id


def test_a_fault_of_our_own_ends_no_stream(
    http: httpx.Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read_entry, faults = feed.read_entry, [ZeroDivisionError()]

    def read_once_it_works(entry: Any) -> Event | None:
        if faults:
            raise faults.pop()
        return read_entry(entry)

    with stream(http, "/events") as events:
        monkeypatch.setattr(feed, "read_entry", read_once_it_works)
        job_id = accept(jobs)
        assert next(events)["data"]["job"] == job_id
    assert "begins again" in caplog.text


def test_while_nothing_happens_the_place_is_told(
    http: httpx.Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "QUIET_SECONDS", 0.01)
    job_id = accept(jobs)
    with http.stream("GET", f"/jobs/{job_id}/events") as response:
        lines = response.iter_lines()
        list(messages(iter([next(lines) for _ in range(4)])))  # the job
        first = [next(lines) for _ in range(3)]
        assert first[0].startswith("id: ") and first[1:] == ["retry: 3000", ""]
        accept(jobs)
        until(lambda: [next(lines) for _ in range(3)][0] > first[0])


def test_a_stream_ends_after_a_while(http: httpx.Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FOLLOWED_SECONDS", 0.0)
    with stream(http, "/events") as events:
        assert list(events) == []


def test_an_outage_of_redis_loses_nothing(
    http: httpx.Client, jobs: Jobs, redis: Redis, settings: Settings
) -> None:
    job_id = accept(jobs)
    with stream(http, f"/jobs/{job_id}/events") as events, stream(http, "/events") as all_events:
        next(events)
        with away(redis, settings):
            run_through(jobs, job_id)
        assert types(events) == WHOLE
        assert [next(all_events)["event"] for _ in WHOLE] == WHOLE


def pile_up(jobs: Jobs) -> list[str]:
    """Events of 12 megabytes: more than the sockets between a service and its client take."""
    made = [accept(jobs) for _ in range(40)]
    for job_id in made:
        jobs.finish(job_id, State.FAILED, error=Problem("encode-failed", "x" * 300_000))
    return made


def test_a_client_that_falls_behind_costs_no_memory_and_misses_nothing(
    http: httpx.Client, jobs: Jobs, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEPT", 3)
    with stream(http, "/events") as events:
        made = pile_up(jobs)
        until(lambda: [event.job for event in feeds[0]._recent] == made[-3:])
        assert [next(events)["data"]["job"] for _ in made + made] == made + made


def test_a_client_that_takes_nothing_is_let_go(
    http: httpx.Client, jobs: Jobs, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 0.1)
    with stream(http, "/events"):
        pile_up(jobs)
        until(lambda: feeds[0].waiters == 0)


def test_each_owner_sees_its_own_and_an_admin_all(
    http: httpx.Client, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(path: str, scopes: set[Scope]) -> list[str]:
        monkeypatch.setattr(auth, "ANYBODY", auth.Caller("ann", frozenset(scopes)))
        with stream(http, path) as events:
            made = {accept(jobs, owner): owner for owner in ("ann", "bob", "ann")}
            return [made[next(events)["data"]["job"]] for _ in range(2)]

    assert seen("/events", {Scope.READ, Scope.ADMIN}) == ["ann", "ann"]
    assert seen("/events?all=true", {Scope.READ, Scope.ADMIN}) == ["ann", "bob"]
    monkeypatch.setattr(auth, "ANYBODY", auth.Caller("ann", frozenset({Scope.READ})))
    assert "scope admin" in assert_problem(http.get("/events?all=true"), 403, "forbidden")["detail"]
    assert_problem(http.get(f"/jobs/{accept(jobs, 'bob')}/events"), 404, "job-not-found")


def test_the_end_of_the_service_ends_what_waits(settings: Settings, jobs: Jobs, tmp_path: Path) -> None:
    job_id = accept(jobs)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ours = {
        "DAIN_REDIS_URL": settings.require_redis_url,
        "DAIN_STATE_DIR": str(settings.state_dir),
        "DAIN_PORT": str(port),
    }
    log = tmp_path / "log"
    command = [sys.executable, "-m", "service.api.app"]
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=os.environ | ours, stdout=output, stderr=output) as process,
        httpx.Client(base_url=url, timeout=60, verify=False) as http,
        ThreadPoolExecutor() as pool,
    ):
        try:
            until(lambda: answers(http))
            with stream(http, f"/jobs/{job_id}/events") as events, stream(http, "/events") as all_events:
                next(events)
                answer = pool.submit(http.get, f"/jobs/{job_id}", params={"wait": 60})
                until(lambda: "dain_http_waiting 3.0" in http.get("/metrics").text)
                process.send_signal(signal.SIGTERM)
                assert list(events) == list(all_events) == []
                assert answer.result().json()["status"] == "queued"
            process.wait(60)
        finally:
            process.kill()
    assert "graceful" not in log.read_text() and "ERROR" not in log.read_text()


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/healthz").is_success
    except httpx.TransportError:
        return False
