"""The client against the real API, and against a network that fails."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from service import client as client_module
from service.client import Client, ClientError
from service.jobs.machine import Jobs
from service.settings import Settings
from service.store import Store
from tests.api import serve, until

CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_from_upload_to_download(
    client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None], jobs: Jobs, store: Store
) -> None:
    job = client.submit(clip, {"target_fps": "60", "quality": 20, "factor": None})
    assert job["filename"] == "clip.mp4"
    assert (job["options"]["target_fps"], job["options"]["quality"]) == ("60", 20)
    with store.fetch(jobs.get(job["id"]).source) as upload:
        assert upload.read_bytes() == clip.read_bytes()
    seen: list[str] = []

    def on_progress(job: dict[str, str]) -> None:
        seen.append(job["status"])
        if len(seen) == 2:
            finish(job["id"], CONTENT)

    assert client.wait(job["id"], on_progress, interval=0.01)["status"] == "succeeded"
    assert seen == ["queued", "queued", "succeeded"]
    client.download(job["id"], tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.glob("out*")] == ["out.mp4"]


def test_a_refusal_carries_its_problem(client: Client, clip: Path) -> None:
    with pytest.raises(ClientError, match="factor was '99'") as caught:
        client.submit(clip, {"factor": 99})
    assert caught.value.status == 422
    assert caught.value.problem["type"] == "urn:dain:problem:invalid-option"


def test_listing_cancelling_and_removing(client: Client, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE", 2)
    ids = [client.submit(clip)["id"] for _ in range(5)]
    assert {job["id"] for job in client.jobs()} == set(ids)
    cancelled = client.cancel(ids[0])
    assert cancelled is not None and cancelled["status"] == "cancelled"
    assert [job["id"] for job in client.jobs(status="cancelled")] == [ids[0]]
    assert client.cancel(ids[0]) is None
    assert len(client.jobs()) == 4
    assert client.workers() == []


def test_the_same_key_makes_one_job(client: Client, clip: Path) -> None:
    assert client.submit(clip, idempotency_key="k")["id"] == client.submit(clip, idempotency_key="k")["id"]
    assert len(client.jobs()) == 1


def test_a_missing_result_says_why(client: Client, clip: Path, tmp_path: Path) -> None:
    job = client.submit(clip)
    client.cancel(job["id"])
    with pytest.raises(ClientError) as caught:
        client.download(job["id"], tmp_path / "out.mp4")
    assert caught.value.problem["type"] == "urn:dain:problem:job-cancelled"
    assert list(tmp_path.glob("out*")) == []


# -- failing networks -----------------------------------------------------------------------------


@contextmanager
def cutting_proxy(url: str, *, up: list[int | None], down: list[int | None]) -> Iterator[str]:
    """Passes connections on to the API; the n-th is cut after so many bytes in one direction (None: never)."""
    port = int(url.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        with closing(source), closing(target), suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data if most is None else data[: max(most - passed, 0)])
                passed += len(data)
                if most is not None and passed >= most:
                    break
            source.shutdown(socket.SHUT_RDWR)
            target.shutdown(socket.SHUT_RDWR)

    def listen() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            limits = [(near, far, up.pop(0) if up else None), (far, near, down.pop(0) if down else None)]
            for limit in limits:
                threading.Thread(target=pass_on, args=limit, daemon=True).start()

    thread = threading.Thread(target=listen)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LONGEST_PAUSE", 0.2)


@pytest.mark.usefixtures("patient")
def test_a_broken_upload_is_sent_again(url: str, clip: Path, jobs: Jobs) -> None:
    with cutting_proxy(url, up=[1000, 500], down=[]) as proxy, Client(proxy) as client:
        job = client.submit(clip)
    assert job["status"] == "queued"
    assert jobs.counts()["queued"] == 1


@pytest.mark.usefixtures("patient")
def test_a_lost_answer_makes_no_second_job(url: str, clip: Path, jobs: Jobs) -> None:
    with cutting_proxy(url, up=[], down=[10, 10]) as proxy, Client(proxy) as client:
        client.submit(clip)
    assert jobs.counts()["queued"] == 1


@pytest.mark.usefixtures("patient")
def test_a_broken_download_is_resumed(
    url: str, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    with Client(url) as client:
        job_id = client.submit(clip)["id"]
    finish(job_id, CONTENT)
    down = [1_500_000, 1_000_000]
    with cutting_proxy(url, up=[], down=down) as proxy, Client(proxy) as client:
        client.download(job_id, tmp_path / "out.mp4")
    assert down == []
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT


def test_what_was_fetched_before_is_kept(
    client: Client, url: str, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = client.submit(clip)["id"]
    finish(job_id, CONTENT)
    (tmp_path / "out.mp4.part").write_bytes(CONTENT[:2_999_990])
    with (
        cutting_proxy(url, up=[], down=[20_000]) as proxy,
        Client(proxy) as other,
    ):  # too little for all of it
        other.download(job_id, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT


def test_a_damaged_part_is_noticed(
    client: Client, clip: Path, tmp_path: Path, finish: Callable[[str, bytes], None]
) -> None:
    job_id = client.submit(clip)["id"]
    finish(job_id, CONTENT)
    (tmp_path / "out.mp4.part").write_bytes(bytes(1000))
    with pytest.raises(ClientError, match="damaged"):
        client.download(job_id, tmp_path / "out.mp4")
    assert list(tmp_path.glob("out*")) == []
    client.download(job_id, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == CONTENT


@pytest.mark.usefixtures("patient")
def test_a_service_that_is_starting_is_waited_for(settings: Settings, clip: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    jobs: list[dict[str, str]] = []
    with Client(f"http://127.0.0.1:{port}") as client:
        thread = threading.Thread(target=lambda: jobs.append(client.submit(clip)))
        thread.start()
        with serve(settings, port):
            until(lambda: jobs)
        thread.join()
    assert jobs[0]["status"] == "queued"


@pytest.mark.usefixtures("patient")
def test_a_service_that_stays_away_is_given_up(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ATTEMPTS", 2)
    with Client("http://127.0.0.1:9") as client, pytest.raises(ClientError, match="cannot be reached"):
        client.submit(clip)


class TestBusy:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_queued_jobs": 1})

    @pytest.mark.usefixtures("patient")
    def test_is_waited_out(self, client: Client, clip: Path, jobs: Jobs) -> None:
        first = client.submit(clip)
        threading.Timer(0.3, lambda: jobs.cancel(first["id"])).start()
        assert client.submit(clip)["status"] == "queued"
