"""`dain wait` and `dain fetch`: what comes of jobs, and the exit code that tells it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from redis import Redis

from service.cli import cli
from service.client import Client, sync_client
from service.commands import following
from service.commands.following import Following
from service.commands.progress import Lines
from service.exits import Exit
from service.jobs.machine import Jobs
from service.jobs.names import job_key
from service.jobs.problems import Problem
from service.jobs.records import State
from service.settings import Settings
from tests.api import serve, until
from tests.service.commands.conftest import CONTENT, Dain

Send = Callable[[], str]


@pytest.fixture
def send(dain: Dain, clip: Path) -> Send:
    """Makes a job of the clip, and gives its id."""
    return lambda: dain("submit", clip, "--detach").stdout.strip()


def test_the_result_of_a_job_is_fetched_later(
    dain: Dain, send: Send, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id, own = send(), tmp_path / "own.mp4"
    finish(job_id, CONTENT)
    done = dain("fetch", job_id, "-o", own)
    assert done.exit_code == 0, done.stderr
    assert own.read_bytes() == CONTENT and f"{own}: 24 frames" in done.stdout
    own.write_bytes(b"mine")
    refused = dain("fetch", job_id, "-o", own)
    assert refused.exit_code == 2 and "own.mp4 exists" in refused.stderr and own.read_bytes() == b"mine"
    assert dain("fetch", job_id, "-o", own, "--overwrite").exit_code == 0
    assert own.read_bytes() == CONTENT
    fetched = dain("fetch", job_id, "-o", tmp_path, "--json")
    assert json.loads(fetched.stdout)["path"] == str(tmp_path / "café-2x.mp4")
    assert (tmp_path / "café-2x.mp4").read_bytes() == CONTENT


def test_a_name_that_says_another_kind_of_file_is_told_of(
    dain: Dain, send: Send, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = send()
    finish(job_id, CONTENT)
    done = dain("fetch", job_id, "-o", tmp_path / "own.webm")
    assert done.exit_code == 0 and (tmp_path / "own.webm").read_bytes() == CONTENT
    assert "Note: the result is a .mp4 file, which the name own.webm does not say." in done.stderr
    assert "Note" not in dain("fetch", job_id, "-o", tmp_path / "own.M4V").stderr


@pytest.mark.usefixtures("working")
def test_whoever_waits_is_told_when_a_job_is_over(dain: Dain, send: Send) -> None:
    first, second = send(), send()
    done = dain("wait", first, second)
    assert done.exit_code == 0 and {f"{first} succeeded", f"{second} succeeded"} == set(
        done.stdout.splitlines()
    )
    assert json.loads(dain("wait", first, "--json").stdout)["status"] == "succeeded"


def test_the_exit_code_tells_how_a_job_ended(dain: Dain, send: Send, jobs: Jobs, tmp_path: Path) -> None:
    cancelled, failed = send(), send()
    dain("cancel", cancelled)
    error = Problem("damaged-video", "The video ends in its middle.")
    assert jobs.finish(failed, State.FAILED, error=error)
    for job_id, code, words in (
        (cancelled, Exit.JOB_CANCELLED, f"{cancelled} cancelled"),
        (failed, Exit.JOB_FAILED, "Error: clip.mp4: The video ends in its middle."),
        ("0" * 28, Exit.NOT_FOUND, "There is no job"),
        ("../../healthz", Exit.NOT_FOUND, "'../../healthz' is no id of a job."),
        ("", Exit.NOT_FOUND, "'' is no id of a job."),
    ):
        for command in (("wait",), ("fetch", "-o", tmp_path)):
            done = dain(*command, job_id)
            assert done.exit_code == code and words in done.output
    assert dain("wait", failed, cancelled).exit_code == Exit.JOB_FAILED
    assert not list(tmp_path.glob("*2x*"))


def test_an_id_that_there_is_not_keeps_no_other_from_its_turn(
    dain: Dain, send: Send, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    absent, job_id, other = "0" * 28, send(), send()
    finish(job_id, CONTENT)
    done = dain("fetch", absent, job_id, "-o", tmp_path)
    assert done.exit_code == Exit.NOT_FOUND and f"There is no job {absent}" in done.stderr
    assert (tmp_path / "café-2x.mp4").read_bytes() == CONTENT
    done = dain("cancel", absent, other)
    assert done.exit_code == Exit.NOT_FOUND and f"Cancelled job {other}" in done.stderr
    done = dain("delete", absent, job_id, other)
    assert done.exit_code == Exit.NOT_FOUND and f"Removed job {other}" in done.stderr


def test_a_cancel_that_comes_too_late_does_not_say_that_it_stopped_the_job(
    url: str, send: Send, finish: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, said = send(), list[str]()
    finish(job_id, CONTENT)
    monkeypatch.setattr(Lines, "say", lambda self, line: said.append(line))
    with Client(url) as client:
        following.cancel(client, [job_id], Lines())
    assert said == [f"Job {job_id} was over: succeeded. `dain fetch {job_id}` fetches what came of it."]


def test_a_job_that_is_removed_while_it_is_waited_for_is_told_of(
    dain: Dain,
    send: Send,
    http: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    finish: Callable[[str, bytes], None],
) -> None:
    removed, other = send(), send()

    def remove(self: Following) -> None:
        for _ in ("cancelled", "removed"):
            http.delete(f"/jobs/{removed}")
        finish(other, CONTENT)

    monkeypatch.setattr(Following, "_pause", remove)
    done = dain("wait", removed, other)
    assert done.exit_code == Exit.NOT_FOUND and f"There is no job {removed}" in done.stderr
    assert done.stdout == f"{other} succeeded\n"


def test_a_job_whose_state_the_service_cannot_read_is_not_waited_for(
    dain: Dain, send: Send, redis: Redis
) -> None:
    job_id = send()
    redis.hset(job_key(job_id), "state", "paused")
    for words in (("wait", job_id), ("fetch", job_id), ("logs", "--follow", job_id)):
        done = dain(*words)
        assert done.exit_code == (0 if "logs" in words else Exit.JOB_FAILED)
        assert "cannot read state in its record" in done.output


def test_a_service_that_is_away_for_a_while_is_waited_for(
    settings: Settings, clip: Path, finish: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is the same when it is back, as after an update. The client's own patience is at its end by then."""
    said: list[str] = []
    monkeypatch.setattr(Lines, "say", lambda self, line: said.append(line))
    monkeypatch.setattr(sync_client, "CONNECTION_SECONDS", 0.5)

    def restart() -> None:
        until(lambda: any("queued" in line for line in said))
        first.close()
        until(lambda: any("The jobs go on there" in line for line in said))
        with serve(settings, int(url.rpartition(":")[2])):
            finish(job_id, CONTENT)
            until(over.is_set)

    over = threading.Event()
    with ExitStack() as first, ThreadPoolExecutor(1) as pool:
        url = first.enter_context(serve(settings))
        headers = {"Content-Type": "video/mp4"}
        job_id = httpx.post(f"{url}/jobs", content=clip.read_bytes(), headers=headers, timeout=60).json()[
            "id"
        ]
        restarted = pool.submit(restart)
        done = CliRunner().invoke(cli, ["wait", job_id, "--url", url])
        over.set()
        restarted.result()
    assert done.exit_code == 0 and done.stdout == f"{job_id} succeeded\n"
    assert [line for line in said if "Trying again" in line]


def test_a_service_that_stays_away_leaves_word_of_how_to_go_on(
    settings: Settings, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Lines, "say", lambda self, line: said.append(line))
    monkeypatch.setattr(sync_client, "CONNECTION_SECONDS", 0)
    monkeypatch.setattr(following, "LOST_SECONDS", 0)

    def stop() -> None:
        until(lambda: any("queued" in line for line in said))
        service.close()

    with ExitStack() as service, ThreadPoolExecutor(1) as pool:
        url = service.enter_context(serve(settings))
        stopped = pool.submit(stop)
        done = CliRunner().invoke(cli, ["submit", str(clip), "--url", url])
        stopped.result()
    assert done.exit_code == Exit.UNREACHABLE and "cannot be reached" in done.stderr
    assert re.fullmatch(rf" +dain fetch [0-9a-f]{{28}} --url {url}", said[-1])
