"""The client against the real API, and against a network that fails."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

import service
from service import client as client_package
from service.api import idempotency
from service.api.routes import submit
from service.client import (
    Client,
    ClientError,
    Damaged,
    Frames,
    InvalidRequest,
    Job,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    NotFound,
    QuotaExceeded,
    ServiceError,
    TimedOut,
    Unreachable,
    VideoRefused,
    errors,
    retries,
    sync_client,
    sync_io,
)  # fmt: skip
from service.jobs.machine import Claim, Jobs
from service.jobs.names import PLAN, job_key
from service.jobs.problems import PROBLEMS, Problem
from service.jobs.records import State
from service.settings import Settings
from service.store import Store
from service.store.s3 import S3Store
from tests import s3
from tests.api import cutting_proxy, serve, until

CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_an_estimate(client: Client, clip: Path) -> None:
    estimate = client.estimate(clip, {"target_fps": "60", "factor": None})
    assert (estimate.frames, estimate.queue_position, estimate.seconds) == (30, 0, None)
    assert client.jobs() == []


def test_from_upload_to_download(
    client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None], jobs: Jobs, store: Store
) -> None:
    job = client.submit(clip, {"target_fps": "60", "quality": 20, "factor": None})
    assert job.filename == "clip.mp4"
    assert (job.options["target_fps"], job.options["quality"]) == ("60", 20)
    with store.fetch(jobs.get(job.id).source) as upload:
        assert upload.read_bytes() == clip.read_bytes()
    seen: list[str] = []

    def on_progress(job: Job) -> None:
        seen.append(job.status)
        if len(seen) == 1:
            finish(job.id, CONTENT)

    assert client.wait(job.id, on_progress, interval=0.01).status == "succeeded"
    assert seen == ["queued", "succeeded"]
    had: list[tuple[int, int]] = []
    client.download(job.id, tmp_path / "out.mp4", on_progress=lambda *bytes_had: had.append(bytes_had))
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT
    assert [most for _, most in had] == [len(CONTENT)] * 3 and had[-1][0] == len(CONTENT)
    memory = io.BytesIO()
    client.download(job.id, memory)
    assert memory.getvalue() == CONTENT == b"".join(client.result(job.id))
    assert [path.name for path in tmp_path.glob("out*")] == ["out.mp4"]


def test_a_mask_goes_with_the_video(
    client: Client, clip: Path, tmp_path: Path, jobs: Jobs, store: Store
) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"\x89PNG\r\n\x1a\n")
    job = client.submit(clip, {"factor": 3}, mask=mask)
    assert (job.filename, job.options["factor"]) == ("clip.mp4", 3)
    with store.fetch(jobs.get(job.id).source) as upload, store.fetch(f"masks/{job.id}") as picture:
        assert upload.read_bytes() == clip.read_bytes()
        assert picture.read_bytes() == mask.read_bytes()
    with pytest.raises(ClientError, match="The mask is no PNG"):
        client.submit(clip, mask=clip)


def test_a_refusal_carries_its_problem(client: Client, clip: Path) -> None:
    with pytest.raises(ClientError, match="factor was '99'") as caught:
        client.submit(clip, {"factor": 99})
    assert isinstance(caught.value, InvalidRequest)
    assert (caught.value.status, caught.value.slug) == (422, "invalid-option")


def test_listing_cancelling_and_removing(client: Client, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_client, "PAGE", 2)
    ids = [client.submit(clip).id for _ in range(5)]
    assert [job.id for job in client.jobs()] == ids[::-1]
    requests: list[str] = []
    client._http.event_hooks["request"].append(lambda sent: requests.append(sent.url.params.get("limit")))
    assert [job.id for job in client.jobs(limit=1)] == ids[:3:-1]
    assert [job.id for job in client.jobs(limit=3)] == ids[:1:-1]
    assert requests == ["1", "2", "2"]  # a short list is no whole page, and a long one no more than it needs
    for _ in range(2):  # it is safe to repeat
        assert client.cancel(ids[0]).status == "cancelled"
    assert [job.id for job in client.jobs(status="cancelled")] == [ids[0]]
    for job_id in ids[:2]:  # one that is over, and one that is not
        client.delete(job_id)
    assert [job.id for job in client.jobs()] == ids[:1:-1]
    for call in (client.delete, client.cancel):
        with pytest.raises(NotFound):
            call(ids[0])
    assert client.workers() == []


def test_jobs_are_found_by_the_callers_own_name_and_notes(client: Client, clip: Path) -> None:
    job = client.submit(clip, {"reference": "order 7", "metadata": {"user": "42", "page": "3"}})
    client.submit(clip, {"metadata": {"user": "43"}})
    assert job.metadata == {"user": "42", "page": "3"}
    for asked in ({"reference": "order 7"}, {"metadata": {"user": "42"}}):
        assert [found.id for found in client.jobs(**asked)] == [job.id]


def test_the_same_key_makes_one_job(client: Client, clip: Path) -> None:
    assert client.submit(clip, idempotency_key="k").id == client.submit(clip, idempotency_key="k").id
    assert len(client.jobs()) == 1


def test_a_missing_result_says_why(client: Client, clip: Path, tmp_path: Path) -> None:
    job = client.submit(clip)
    client.cancel(job.id)
    with pytest.raises(ClientError) as caught:
        client.download(job.id, tmp_path / "out.mp4")
    assert isinstance(caught.value, JobCancelled) and caught.value.slug == "job-cancelled"
    assert list(tmp_path.glob("out*")) == []


def test_each_kind_of_problem_has_a_class_under_one_root() -> None:
    ours = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    assert all(issubclass(kind, ClientError) for kind in ours)
    kinds = {slug: type(errors.refusal(refused(slug, status))) for slug, (status, _) in PROBLEMS.items()}
    assert ClientError not in kinds.values()
    assert (
        kinds["queue-full"] is client_package.QueueFull and kinds["job-not-found"] is client_package.NotFound
    )
    assert kinds["job-failed"] is client_package.JobFailed and kinds["damaged-video"] is VideoRefused
    assert kinds["source-unreachable"] is kinds["source-refused"] is VideoRefused
    assert errors._BY_SLUG.keys() <= PROBLEMS.keys()
    assert {name for name, kind in vars(client_package).items() if kind in ours} == {
        kind.__name__ for kind in ours if not kind.__name__.startswith("_")
    }


def refused(slug: str, status: int) -> httpx.Response:
    document = {"type": errors.URN + slug, "status": status, "detail": "No."}
    return httpx.Response(status, json=document, request=httpx.Request("GET", "http://dain"))


# -- waiting --------------------------------------------------------------------------------------


def under_way(jobs: Jobs, job_id: str) -> Claim:
    jobs.complete(jobs.claim(job_id, PLAN, "ann"), job={"segments_total": 1, "frames_total": 100})
    return jobs.claim(job_id, "segment-0", "ann")


def test_waiting_is_told_each_percent_and_asks_no_more_often(client: Client, clip: Path, jobs: Jobs) -> None:
    job_id = client.submit(clip).id
    claim = under_way(jobs, job_id)
    seen: list[int] = []

    def on_progress(job: Job) -> None:
        done = job.progress.frames_done
        seen.append(done)
        jobs.report(claim, done + 10)
        if done == 50:
            jobs.cancel(job_id)

    with pytest.raises(JobCancelled) as ended:
        client.wait(job_id, on_progress, interval=0)
    assert ended.value.job is not None and ended.value.job.status == "cancelled"
    assert seen[:6] == [0, 10, 20, 30, 40, 50] and len(seen) == 7


def test_what_a_running_job_makes_is_shown(client: Client, clip: Path, jobs: Jobs) -> None:
    job_id = client.submit(clip).id
    assert client.preview(job_id) is None
    claim = under_way(jobs, job_id)
    assert client.preview(job_id) is None  # but now somebody looks
    assert jobs.report(claim, 10, picture=b"\xff\xd8 a picture")
    assert client.preview(job_id) == b"\xff\xd8 a picture"
    with pytest.raises(NotFound):
        client.preview("0" * 28)


def test_which_frames_of_a_result_are_new(client: Client, clip: Path, finish: Callable[..., None]) -> None:
    job_id = client.submit(clip).id
    with pytest.raises(JobNotFinished):
        client.frames(job_id)
    finish(job_id, CONTENT, b'{"frames": "snsh", "start": 0.5, "rate": null, "times": [0.5, 1, 2, 3]}')
    assert client.frames(job_id) == Frames(frames="snsh", start=0.5, times=(0.5, 1, 2, 3))


def test_a_file_without_a_byte_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "none.mp4").touch()
    for call in (client.submit, client.estimate):
        with pytest.raises(VideoRefused, match=r"^The file is empty: "):
            call(tmp_path / "none.mp4")


def test_waiting_ends_with_the_jobs_own_error(client: Client, clip: Path, jobs: Jobs) -> None:
    job_id = client.submit(clip).id
    with pytest.raises(TimedOut) as late:
        client.wait(job_id, timeout=0.05)
    assert late.value.job.status == "queued"
    assert jobs.finish(job_id, State.FAILED, error=Problem("damaged-video", "The video breaks off."))
    with pytest.raises(JobFailed, match="breaks off") as failed:
        client.wait(job_id)
    assert failed.value.slug == "damaged-video"
    assert failed.value.job is not None and failed.value.job.error == failed.value.problem
    with pytest.raises(JobFailed, match="breaks off"):
        client.download(job_id, io.BytesIO())


def test_an_older_service_is_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(sync_io.time, "sleep", paused.append)
    running = {"id": "a", "status": "running", "finished_at": None}
    over = ("200 OK", {"id": "a", "status": "succeeded", "finished_at": 1.0}, {})
    new = {"ETag": 'W/"1"'}
    with answering(("200 OK", running, {}), ("200 OK", running, {}), over) as (url, _), Client(url) as client:
        assert client.wait("a", interval=0.25).status == "succeeded"
    assert paused == [0.25, 0.25]
    unchanged = ("304 Not Modified", {}, new)
    with answering(("200 OK", running, new), unchanged, over) as (url, requests), Client(url) as client:
        assert client.wait("a").status == "succeeded"
    assert requests == [f"GET /jobs/a?wait={seconds} HTTP/1.1" for seconds in (0, 25, 25)]
    assert len(paused) == 2


@pytest.mark.usefixtures("patient")
def test_events_of_a_job_over_a_network_that_fails(
    url: str, client: Client, clip: Path, jobs: Jobs, redis: Redis
) -> None:
    job_id = client.submit(clip).id
    redis.hset(
        job_key(job_id), "metadata", json.dumps({"line": "\u2028 \x85"})
    )  # which is no end of a line here
    with cutting_proxy(url, up=[], down=[2500, 1500, 1500]) as proxy, Client(proxy) as client:
        events = client.events(job_id)
        first = next(events)
        assert first.type == "job" and first.data["metadata"] == {"line": "\u2028 \x85"}
        claim = under_way(jobs, job_id)
        for frames in range(1, 21):
            jobs.report(claim, frames)
        jobs.cancel(job_id)
        seen = list(events)
        assert [event.type for event in seen] == [
            "job.started", *["job.progressed"] * 21, "job.cancelled"
        ]  # fmt: skip
        assert [event.data["frames_done"] for event in seen[1:-1]] == list(range(21))
        assert [event.id for event in client.events(job_id, after=seen[-3].id)] == [seen[-2].id, seen[-1].id]
        assert list(client.events(job_id, after=seen[-1].id)) == []


def test_events_of_all_jobs(client: Client, clip: Path) -> None:
    made = [client.submit(clip).id for _ in range(2)]
    events = client.events(after="0")
    assert [next(events).data["job"] for _ in made] == made
    with pytest.raises(ClientError) as caught:
        next(client.events(after="yesterday"))
    assert caught.value.problem["type"] == "urn:dain:problem:invalid-event-id"


# -- failing networks -----------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.1)


@pytest.mark.usefixtures("patient")
def test_a_broken_upload_is_sent_again(url: str, clip: Path, jobs: Jobs) -> None:
    with cutting_proxy(url, up=[1000, 500], down=[]) as proxy, Client(proxy) as client:
        job = client.submit(clip)
    assert job.status == "queued"
    assert jobs.counts()["queued"] == 1


@pytest.mark.usefixtures("patient")
def test_a_lost_answer_makes_no_second_job(url: str, clip: Path, jobs: Jobs) -> None:
    with cutting_proxy(url, up=[], down=[10, 10]) as proxy, Client(proxy) as client:
        client.submit(clip)
    assert jobs.counts()["queued"] == 1


class TestLargeVideo:
    """Every video is one that is sent in pieces, and each of those is small."""

    @pytest.fixture(autouse=True)
    def small(self, patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sync_client, "RESUMABLE_BYTES", 1)
        monkeypatch.setattr(sync_client, "PIECE_BYTES", 4000)
        monkeypatch.setattr(sync_client, "CHUNK_BYTES", 1000)

    def test_is_sent_in_pieces_that_are_removed_then(
        self, client: Client, clip: Path, jobs: Jobs, store: Store, redis: Redis
    ) -> None:
        told: list[int] = []
        job = client.submit(clip, {"factor": "3"}, on_progress=lambda sent, total: told.append(sent))
        assert (job.filename, job.options["factor"]) == ("clip.mp4", 3)
        size = clip.stat().st_size
        assert told == [min(sent, size) for sent in (1000, 2000, 3000, 4000, 5000, 6000, 7000)]
        with store.fetch(jobs.get(job.id).source) as upload:
            assert upload.read_bytes() == clip.read_bytes()
        assert list(store.keys("incoming/")) == [] and redis.keys("dain:incoming:*") == []

    @pytest.mark.parametrize(
        ("up", "down"),
        [
            ([6000, 5500], []),
            ([], [100, 400, 200]),  # the answer is lost
        ],
        ids=["on the way there", "on the way back"],
    )
    def test_a_broken_connection_costs_one_piece(
        self, up: list[int | None], down: list[int | None], url: str, clip: Path, jobs: Jobs, store: Store
    ) -> None:
        with cutting_proxy(url, up=up, down=down) as proxy, Client(proxy) as client:
            job = client.submit(clip)
        assert not up and not down
        with store.fetch(jobs.get(job.id).source) as upload:
            assert upload.read_bytes() == clip.read_bytes()
        assert jobs.counts()["queued"] == 1

    def test_one_that_is_refused_leaves_nothing(
        self, client: Client, tmp_path: Path, store: Store, redis: Redis
    ) -> None:
        (tmp_path / "notes.txt").write_text("no video" * 1000)
        with pytest.raises(ClientError) as caught:
            client.submit(tmp_path / "notes.txt")
        assert caught.value.status == 422
        assert list(store.keys("incoming/")) == []
        assert redis.keys("dain:incoming:*") == []

    def test_a_wrong_option_is_refused_before_a_byte_is_sent(self, client: Client, clip: Path) -> None:
        sent: list[int] = []
        with pytest.raises(InvalidRequest, match="factor was '99'"):
            client.submit(clip, {"factor": 99}, on_progress=lambda bytes, total: sent.append(bytes))
        with pytest.raises(InvalidRequest, match="there is no option 'colour'"):
            client.estimate(clip, {"colour": 1}, on_progress=lambda bytes, total: sent.append(bytes))
        assert sent == []

    def test_a_service_that_knows_no_pieces_gets_it_whole(self, clip: Path) -> None:
        unknown = ("404 Not Found", {"status": 404, "detail": "Not Found."}, {})
        taken = ("202 Accepted", {"id": "1", "status": "queued"}, {})
        with answering(unknown, taken) as (url, asked), Client(url) as client:
            assert client.submit(clip).id == "1"
            assert [re.split(r"[ ?]", line)[1] for line in asked] == ["/uploads", "/jobs"]


@pytest.mark.usefixtures("patient")
def test_a_broken_download_is_resumed(
    url: str, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    with Client(url) as client:
        job_id = client.submit(clip).id
    finish(job_id, CONTENT)
    down = [1_500_000, 1_000_000]
    with cutting_proxy(url, up=[], down=down) as proxy, Client(proxy) as client:
        client.download(job_id, tmp_path / "out.mp4")
    assert down == []
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT


def part_of(path: Path, content: bytes) -> Path:
    """Where the client keeps what has arrived of `content`."""
    return path.with_name(f"{path.name}.{hashlib.sha256(content).hexdigest()[:16]}.part")


def test_what_was_fetched_before_is_kept(
    client: Client, url: str, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = client.submit(clip).id
    finish(job_id, CONTENT)
    part_of(tmp_path / "out.mp4", CONTENT).write_bytes(CONTENT[:2_999_990])
    too_little_for_all_of_it: list[int | None] = [20_000]
    with cutting_proxy(url, up=[], down=too_little_for_all_of_it) as proxy, Client(proxy) as other:
        other.download(job_id, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.glob("out*")] == ["out.mp4"]


def test_what_was_fetched_of_another_job_is_left_alone(
    client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    theirs = part_of(tmp_path / "out.mp4", b"another result")
    mine = tmp_path / "out.mp4.part"
    for path in (theirs, mine):
        path.write_bytes(b"another")
    job_id = client.submit(clip).id
    finish(job_id, CONTENT)
    client.download(job_id, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT
    assert theirs.read_bytes() == mine.read_bytes() == b"another"


def test_a_damaged_part_is_noticed(
    client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = client.submit(clip).id
    finish(job_id, CONTENT)
    part_of(tmp_path / "out.mp4", CONTENT).write_bytes(bytes(1000))
    with pytest.raises(ClientError, match="damaged"):
        client.download(job_id, tmp_path / "out.mp4")
    assert list(tmp_path.glob("out*")) == []
    client.download(job_id, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT


def test_two_downloads_to_one_path_leave_it_whole(
    client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = client.submit(clip).id
    finish(job_id, CONTENT)
    path = tmp_path / "out.mp4"

    def fetch_too(*_: int) -> None:
        with pytest.raises(FileExistsError):
            client.download(job_id, path)

    client.download(job_id, path, on_progress=fetch_too)
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.glob("out*")) == [path]


class TestResultInABucket:
    """The service says where it is; the client goes on there with what it has."""

    @pytest.fixture
    def settings(self, settings: Settings, bucket: s3.Bucket) -> Settings:
        return settings.model_copy(update={"store_url": bucket.url, "store_redirect": True})

    def test_is_fetched_from_there(
        self, client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
    ) -> None:
        job_id = client.submit(clip).id
        finish(job_id, CONTENT)
        part_of(tmp_path / "out.mp4", CONTENT).write_bytes(CONTENT[:1_000_000])
        client.download(job_id, tmp_path / "out.mp4")
        assert (tmp_path / "out.mp4").read_bytes() == CONTENT

    def test_a_link_that_is_no_good_is_not_shown(
        self,
        client: Client,
        clip: Path,
        tmp_path: Path,
        finish: Callable[[str, bytes], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        job_id = client.submit(clip).id
        finish(job_id, CONTENT)
        sign = S3Store.link
        monkeypatch.setattr(
            S3Store, "link", lambda *a, **b: sign(*a, **b).replace("Signature=", "Signature=0")
        )
        with pytest.raises(ClientError, match="answered 403") as caught:
            client.download(job_id, tmp_path / "out.mp4")
        assert "Signature" not in str(caught.value)


def test_a_file_is_replaced_only_where_that_is_wanted(
    client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = client.submit(clip).id
    finish(job_id, CONTENT)
    (tmp_path / "out.mp4").write_bytes(b"mine")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError):
        client.download(job_id, tmp_path / "pipe", overwrite=True)
    with pytest.raises(FileExistsError):
        client.download(job_id, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"mine"
    client.download(job_id, tmp_path / "out.mp4", overwrite=True)
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT


@pytest.mark.usefixtures("patient")
def test_a_service_that_is_starting_is_waited_for(settings: Settings, clip: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    jobs: list[Job] = []
    with Client(f"http://127.0.0.1:{port}", patience=30) as client:
        thread = threading.Thread(target=lambda: jobs.append(client.submit(clip)))
        thread.start()
        with serve(settings, port):
            until(lambda: jobs)
        thread.join()
    assert jobs[0].status == "queued"


@pytest.mark.usefixtures("patient")
def test_a_service_that_stays_away_is_given_up(clip: Path) -> None:
    said: list[tuple[type, float]] = []
    with (
        Client(
            "http://127.0.0.1:9",
            patience=0.1,
            on_retry=lambda error, pause: said.append((type(error), pause)),
        ) as client,
        pytest.raises(Unreachable, match="cannot be reached"),
    ):
        client.submit(clip)
    assert said == [(Unreachable, 0.05)]


class TestBusy:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_queued_jobs": 1})

    @pytest.mark.usefixtures("patient")
    def test_is_waited_out(self, client: Client, clip: Path, jobs: Jobs) -> None:
        first = client.submit(clip)
        threading.Timer(0.3, lambda: jobs.cancel(first.id)).start()
        assert client.submit(clip).status == "queued"


# -- patience ---------------------------------------------------------------------------------------


@contextmanager
def answering(*answers: tuple[str, dict[str, Any], dict[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """A service that answers requests with these statuses, documents and headers, the last one for ever.

    Yields its URL and the first lines of the requests that came.
    """
    requests: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_all() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as reader:
                    requests.append(reader.readline().decode().strip())
                    length = 0
                    while (line := reader.readline()) not in (b"\r\n", b""):
                        name, _, value = line.decode().partition(":")
                        length = int(value) if name.lower() == "content-length" else length
                    reader.read(length)
                    status, document, headers = answers[min(len(requests), len(answers)) - 1]
                    body = json.dumps(document).encode()
                    lines = [f"{name}: {value}" for name, value in headers.items()]
                    head = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "Connection: close"]
                    connection.sendall("\r\n".join([*head, "", ""]).encode() + body)

        thread = threading.Thread(target=serve_all)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


IN_USE = (
    "409 Conflict",
    {"type": errors.URN + errors.IN_USE, "status": 409, "detail": "In use."},
    {"Retry-After": "5"},
)
ACCEPTED = ("202 Accepted", {"id": "a", "status": "queued"}, {})


def test_a_key_in_use_is_waited_for_as_long_as_the_service_may_work(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed API's lease lasts 30 s, and looking through a large upload takes minutes."""
    paused: list[float] = []
    monkeypatch.setattr(sync_io.time, "sleep", paused.append)
    with answering(*[IN_USE] * 20, ACCEPTED) as (url, requests), Client(url) as client:
        assert client.submit(clip).id == "a"
    assert len(requests) == 21
    assert paused == [5.0] * 20 and sum(paused) > idempotency.LEASE_SECONDS


@pytest.mark.usefixtures("patient")
def test_a_proxy_whose_service_is_started_again_is_asked_again() -> None:
    bad, late = ("502 Bad Gateway", {}, {}), ("504 Gateway Timeout", {}, {})
    with answering(bad, late, ("200 OK", {"version": "1"}, {})) as (url, _), Client(url) as client:
        assert client.version() == "1"


def test_patience_ends(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(sync_io.time, "sleep", paused.append)
    with answering(IN_USE) as (url, _), Client(url) as client, pytest.raises(ClientError, match="In use"):
        client.submit(clip)
    assert sum(paused) == pytest.approx(sync_client.ANSWER_SECONDS, abs=10)
    full = ("429 Too Many Requests", {"status": 429, "detail": "Full."}, {"Retry-After": "0"})
    with answering(full) as (url, _), Client(url) as client, pytest.raises(ClientError, match="Full"):
        client.submit(clip)


def test_an_answer_that_takes_its_time_is_waited_for(
    url: str, clip: Path, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = submit.probe

    def slow(*arguments: Any) -> Any:
        time.sleep(1.5)
        return real(*arguments)

    monkeypatch.setattr(submit, "probe", slow)
    with Client(url, timeout=0.3) as client:
        client.submit(clip)
        metrics = httpx.get(f"{url}/metrics", verify=False).text
    assert jobs.counts()["queued"] == 1
    assert re.search(r'count\{method="POST",route="/jobs",status="202"\} 1.0', metrics)
    assert 'status="409"' not in metrics  # it was sent once


# -- secrets ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
def test_a_password_in_the_url_is_sent_and_never_shown(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(sync_client, "CONNECTION_SECONDS", 0.1)
    said: list[str] = []
    with (
        answering(("500 Internal Server Error", {}, {})) as (url, requests),
        Client(url.replace("//", "//alice:s3cret@")) as client,
    ):
        for call in (client.jobs, lambda: client.submit(clip), lambda: client.cancel("x")):
            with pytest.raises(ClientError) as caught:
                call()
            said.append(str(caught.value))
        said.append(str(client.url))
    assert len(requests) == 3 and "500" in said[0] and url in said[0]
    malformed = (
        "http://alice:s3/cret@host",
        "http://alice:s3cret@host:x",
        "alice:s3cret@host",
        "http://alice:p@s3/cret@127.0.0.1:9/",
        "http://alice:p@s3?cret@127.0.0.1:9/",
        "http://alice:p@s3#cret@127.0.0.1:9/",
    )
    for wrong in ("http://alice:s3cret@127.0.0.1:9", *malformed):
        with pytest.raises(ClientError) as caught, Client(wrong) as client:
            client.jobs()
        said.append(str(caught.value))
        assert "http://127.0.0.1:" in said[-1]
    assert not [text for text in [*said, caplog.text] if "s3" in text]


def test_a_password_in_the_url_is_a_login() -> None:
    with Client("http://alice:s%403@127.0.0.1:9") as client:
        request = next(client._http.auth.sync_auth_flow(httpx.Request("GET", client.url)))
    assert request.headers["Authorization"] == f"Basic {base64.b64encode(b'alice:s@3').decode()}"


def test_every_call_says_at_once_that_nothing_was_ever_there(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_io.time, "sleep", lambda _: pytest.fail("it waited"))
    with Client("http://127.0.0.1:9") as client:
        for call in (
            client.jobs, client.workers, lambda: client.job("x"), lambda: client.cancel("x"), client.version,
            lambda: client.delete("x"), lambda: client.wait("x"), lambda: next(client.events()),
            lambda: client.submit(clip), lambda: client.download("x", tmp_path / "out.mp4"),
        ):  # fmt: skip
            with pytest.raises(
                Unreachable, match="The service at http://127.0.0.1:9 cannot be reached: nothing"
            ):
                call()


def test_what_answers_and_is_no_such_service_is_named() -> None:
    with answering(("200 OK", {}, {})) as (url, _), Client(url) as client:
        assert client.version() is None
    with pytest.raises(ServiceError, match="not as a DAIN service does") as caught:
        sync_client._document(
            httpx.Response(200, text="<h1>Welcome</h1>", request=httpx.Request("GET", "http://a/x?s3=1"))
        )
    assert "s3" not in str(caught.value)
    with (
        answering(("404 Not Found", {}, {})) as (url, _),
        Client(url) as client,
        pytest.raises(
            NotFound, match=r"answered 404 Not Found\. A DAIN service would say more: is the address"
        ),
    ):
        client.jobs()


def test_an_open_file_is_told_of_damage_too() -> None:
    output = {
        "filename": "out.mp4",
        "media_type": "video/mp4",
        "size_bytes": 2,
        "sha256": "0" * 64,
        "frames": 1,
        "frame_rate": "24",
        "duration_seconds": 1.0,
    }
    job = ("200 OK", {"id": "a", "status": "succeeded", "output": output}, {})
    with answering(job, ("200 OK", {}, {})) as (url, _), Client(url) as client, pytest.raises(Damaged):
        client.download("a", file := io.BytesIO())
    assert file.getvalue() == b"{}"


def test_own_headers_go_with_every_request(url: str) -> None:
    with Client(url, headers={"X-Of-Mine": "1"}) as client:
        assert client.version() == service.__version__
        assert client._http.headers["X-Of-Mine"] == "1"


# -- what it needs ----------------------------------------------------------------------------------


def test_it_needs_httpx_alone(url: str) -> None:
    code = f"""
import sys
NEEDED = {{"httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi", "typing_extensions"}}
class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = name == "service" or name.startswith("service.client")
        if not ours and top not in sys.stdlib_module_names and top not in NEEDED:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Nothing())
from service.client import Client
with Client({url!r}) as client:
    assert client.jobs() == []
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- keys -----------------------------------------------------------------------------------------


def token_of(key: dict[str, str]) -> str:
    return key["Authorization"].removeprefix("Bearer ")


def test_the_token_is_sent_from_the_argument_or_the_environment(
    url: str, make_key: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, wrong = token_of(make_key("ann")), token_of(make_key("bob"))[:-1]
    with (
        Client(url) as client,
        pytest.raises(ClientError, match="asks for the token of a key.*the token in DAIN_TOKEN") as refused,
    ):
        client.jobs()
    assert refused.value.status == 401
    monkeypatch.setenv("DAIN_TOKEN", wrong)
    with Client(url) as client, pytest.raises(ClientError, match="belongs to no key of this service"):
        client.jobs()
    with Client(url, token=ann) as client:
        assert client.jobs() == []
    monkeypatch.setenv("DAIN_TOKEN", f"{ann}\n")  # as a file that a shell reads ends
    with Client(url) as client:
        assert client.jobs() == []


def test_no_message_and_no_log_shows_a_token(
    url: str, make_key: Callable[..., dict[str, str]], clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ann = token_of(make_key("ann"))
    said = []
    for base_url, token in [
        (url, ann[:-1]),  # refused
        (url, f"{ann[:40]}\x00{ann[40:]}"),  # cannot be sent
        (url, f"{ann} é"),
        (url.replace("//", "//me:s3cret@"), ann),
        ("http://127.0.0.1:1", ann),  # nobody there
    ]:
        with pytest.raises(ClientError) as caught, Client(base_url, token=token) as client:
            client._request("GET", "/jobs") if base_url == url else client.cancel("0" * 28)
        said.append(f"{caught.value!r} {caught.value} {caught.value.problem}")
    with Client(url, token=ann) as client:
        client.submit(clip)
        said.append(repr(client))
    environment = {**os.environ, "DAIN_TOKEN": ann[:-1], "DAIN_URL": url}
    for command in (["jobs"], ["submit", str(clip)], ["workers", "--token", f"{ann} x"], ["jobs", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", *command], env=environment, capture_output=True, text=True
        )
        said.append(done.stdout + done.stderr)
        assert "Traceback" not in said[-1] and (done.returncode > 0) is (command[-1] != "--help")
    shown = "\n".join([*said, caplog.text])
    assert not any(part in shown for part in (ann[18:40], ann[40:-1], "s3cret"))


def test_a_quota_that_comes_back_tomorrow_is_not_waited_for() -> None:
    with pytest.raises(QuotaExceeded, match="used up"):
        retries.Patience().pause(QuotaExceeded("used up", {"status": 429}, retry_after=40_000), 30)


def test_plain_http_behind_https_is_named(url: str) -> None:
    with Client(url.replace("http:", "https:"), patience=0) as client, pytest.raises(Unreachable) as caught:
        client.jobs()
    assert "the URL begins with http://" in str(caught.value)
