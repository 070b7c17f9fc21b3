"""`dain jobs`, `show`, `logs`, `cancel`, `delete` and `workers` against the real API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.client import Client, Event, Job
from service.jobs.workers import WorkerRecord, Workers
from tests.service.commands.conftest import CONTENT, Dain


@pytest.fixture
def sent(http: httpx.Client, clip: Path) -> list[str]:
    """The ids of three jobs, the newest first."""
    body, headers = clip.read_bytes(), {"Content-Type": "video/mp4"}
    posted = [
        http.post("/jobs", params={"filename": f"{n}.mp4"}, content=body, headers=headers) for n in "abc"
    ]
    return [answer.json()["id"] for answer in posted][::-1]


def test_jobs_are_listed_with_their_age_and_what_is_done(
    dain: Dain, sent: list[str], finish: Callable[[str, bytes], None]
) -> None:
    finish(sent[0], CONTENT)
    listed = dain("jobs").stdout.splitlines()
    assert listed[0].split() == ["ID", "STATUS", "AGE", "DONE", "FPS", "LEFT", "FILE"]
    assert [line.split()[0] for line in listed[1:]] == sent
    assert (
        listed[1].split()[1] == "succeeded"
        and listed[2].split()[1:2] == ["queued"]
        and listed[2].endswith("b.mp4")
    )


def test_as_many_jobs_are_listed_as_are_asked_for(
    dain: Dain, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    jobs = Client.jobs

    def ask(self: Client, limit: int | None, **filters: Any) -> list[Job]:
        asked.append(limit)
        return jobs(self, limit=limit, **filters)

    monkeypatch.setattr(Client, "jobs", ask)
    done = dain("jobs", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3 and "There are more: --limit 100" in done.stderr
    done = dain("jobs", "--limit", "3", "--json")
    assert [job["id"] for job in json.loads(done.stdout)] == sent and not done.stderr
    assert len(dain("jobs", "--limit", "0").stdout.splitlines()) == 4
    assert asked == [3, 4, None]  # one more than are listed, which says whether there are more


def test_jobs_are_listed_even_where_a_record_cannot_be_read(
    dain: Dain, sent: list[str], redis: Redis
) -> None:
    redis.hset(f"dain:job:{sent[1]}", mapping={"options": "{", "created_at": "yesterday", "input": "[]"})
    for command in (["jobs"], ["jobs", "--json"], ["show", sent[1]], ["logs", sent[1]]):
        done = dain(*command)
        assert done.exit_code == 0, done.output
        assert command[0] == "logs" or sent[1] in done.stdout


def test_a_job_is_shown_whole(dain: Dain, sent: list[str], finish: Callable[[str, bytes], None]) -> None:
    finish(sent[0], CONTENT)
    shown = dain("show", sent[0]).stdout
    for fact in (
        "file       c.mp4",
        "status     succeeded",
        "96x64, 12 frames, 24 fps",
        "24 frames at 48 fps, 7 bytes",
    ):
        assert fact in shown
    assert json.loads(dain("show", sent[0], "--json").stdout)["id"] == sent[0]
    assert "1 before it" in dain("show", sent[1]).stdout


def test_of_one_attempt_that_failed_the_history_says_one(
    dain: Dain, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Client.job
    monkeypatch.setattr(
        Client,
        "job",
        lambda client, job: Job.of({**shown(client, job).document, "metrics": {"attempts_failed": 1}}),
    )
    assert (
        "note           attempts at its tasks that failed and were repeated: 1\n"
        in dain("logs", sent[0]).stdout
    )


def test_the_history_of_a_job_is_in_order(
    dain: Dain, sent: list[str], finish: Callable[[str, bytes], None]
) -> None:
    assert [line.split()[2] for line in dain("logs", sent[0]).stdout.splitlines()] == [
        "job.queued",
        "job.queued",
    ]
    finish(sent[0], CONTENT)
    lines = dain("logs", sent[0]).stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["job.queued", "job.succeeded"]
    assert lines[0].endswith("c.mp4 was accepted") and lines[1].endswith("24 frames, 7 bytes")
    as_json = [json.loads(line) for line in dain("logs", sent[0], "--json").stdout.splitlines()]
    assert [line["event"] for line in as_json] == ["job.queued", "job.succeeded"]


@pytest.mark.usefixtures("working")
def test_a_job_is_followed_to_its_end(dain: Dain, sent: list[str]) -> None:
    assert dain("logs", sent[0], "--follow").stdout.splitlines()[-1].split()[2] == "job.succeeded"


def test_a_job_that_ends_before_it_is_followed_is_seen_to_end(
    dain: Dain, sent: list[str], finish: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Client.events

    def late(self: Client, job_id: str) -> Iterator[Event]:
        finish(job_id, CONTENT)
        return events(self, job_id)

    monkeypatch.setattr(Client, "events", late)
    assert dain("logs", sent[0], "--follow").stdout.splitlines()[-1].split()[2:3] == ["job.succeeded"]


def test_jobs_are_stopped_and_removed(
    dain: Dain, sent: list[str], http: httpx.Client, finish: Callable[[str, bytes], None]
) -> None:
    finish(sent[0], CONTENT)
    done = dain("cancel", *sent[:2])
    assert (
        done.exit_code == 0
        and f"Job {sent[0]} was over: succeeded. `dain delete {sent[0]}` removes it." in done.stderr
    )
    assert (
        http.get(f"/jobs/{sent[0]}/result").content == CONTENT
    )  # a result is not lost by a cancel that comes late
    assert [http.get(f"/jobs/{job_id}").json()["status"] for job_id in sent] == [
        "succeeded",
        "cancelled",
        "queued",
    ]
    assert dain("delete", *sent).exit_code == 0
    assert http.get("/jobs").json()["jobs"] == []


def test_a_worker_is_a_line_for_scripts_and_people(dain: Dain, redis: Redis) -> None:
    assert "No worker is running" in dain("workers").stderr
    record = WorkerRecord(
        name="gpu-machine-17-0a1b2c3d", host="gpu-machine-17", pid=1, device="cuda:0", backend="cuda",
        device_name="NVIDIA H100 80GB HBM3", model="dain-refined", precision="fp16", ready=True,
        vram_used_bytes=3 * 2**30, vram_total_bytes=80 * 2**30, celsius={"gpu": 61.0}, throttled_by=["power-cap"],
        frames_per_second=24.25, job="019ad57e1c80a3d74c1f2b9e6a05", task="segment-3", started_at=time.time(),
    )  # fmt: skip
    Workers(redis, ttl_seconds=60).heartbeat(record)
    said = dain("workers").stdout
    assert "segment-3 of 019ad57e1c80a3d74c1f2b9e6a05, 24.25 frames/s" in said
    assert "cuda:0 NVIDIA H100 80GB HBM3" in said and "3.0 of 80.0 GiB, 61 °C, slowed by power-cap" in said
    assert len(said.splitlines()) == 1
    assert json.loads(dain("workers", "--json").stdout)[0]["precision"] == "fp16"
