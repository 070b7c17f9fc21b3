"""Videos by URL, fetched from real servers on this machine."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from redis import Redis

from service.api import sources
from service.client import Client
from service.commands.submit import submit
from service.jobs.keys import Quota
from service.jobs.names import job_key
from service.settings import Settings
from service.store import Store
from tests.api import assert_problem, serve, until

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"egress_allow": frozenset({"127.0.0.1"})})


@pytest.fixture
def source() -> Iterator[Callable[[Answer], str]]:
    """A server; `source(answer)` is a URL that is answered by `answer`, which writes to the handler."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            answers[0](self)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()

        def url(answer: Answer) -> str:
            answers[:] = [answer]
            return f"http://127.0.0.1:{server.server_address[1]}/films/my%20clip.mp4?token=t0ken"

        try:
            yield url
        finally:
            server.shutdown()


def sending(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def chunked(content: bytes) -> Answer:
    """The size is not said before."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(content), 1000):
            chunk = content[start : start + 1000]
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def test_a_video_is_fetched_and_becomes_a_job(
    http: httpx.Client, source: Callable[[Answer], str], clip: Path, store: Store, redis: Redis
) -> None:
    body = {"source_url": source(sending(clip.read_bytes())), "factor": 3, "metadata": {"user": "42"}}
    response = http.post("/jobs", json=body)
    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["filename"], job["options"]["factor"]) == ("my clip.mp4", 3)
    assert job["metadata"] == {"user": "42"} and job["input"]["frames"] == 12
    record = redis.hgetall(job_key(job["id"]))
    assert record[b"source_sha256"].decode() == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert b"t0ken" not in b"".join(record.values())  # the URL may be a secret
    with store.fetch(f"uploads/{job['id']}") as path:
        assert path.read_bytes() == clip.read_bytes()


def test_a_form_may_name_a_video_too(http: httpx.Client, source: Callable[[Answer], str], clip: Path) -> None:
    form = {"source_url": (None, source(chunked(clip.read_bytes()))), "target_fps": (None, "60")}
    job = http.post("/jobs", files=form).json()
    assert (job["filename"], job["options"]["target_fps"]) == ("my clip.mp4", "60")


def test_client_and_command_name_a_video(
    url: str, http: httpx.Client, source: Callable[[Answer], str], clip: Path
) -> None:
    where = source(sending(clip.read_bytes()))
    with Client(url) as client:
        job = client.submit_url(where, {"factor": 4, "metadata": {"user": "42"}, "speed": None})
    assert (job.options["factor"], job.metadata, job.filename) == (4, {"user": "42"}, "my clip.mp4")
    done = CliRunner().invoke(submit, [where, "--url", url, "--factor", "3", "--detach"])
    assert done.exit_code == 0, done.output
    assert http.get(f"/jobs/{done.stdout.strip()}").json()["options"]["factor"] == 3


def test_client_and_command_estimate_a_video_by_its_url(
    url: str, http: httpx.Client, source: Callable[[Answer], str], clip: Path
) -> None:
    where = source(sending(clip.read_bytes()))
    with Client(url) as client:
        assert client.estimate_url(where, {"factor": 3}).frames == 36
    done = CliRunner().invoke(submit, [where, "--url", url, "--factor", "3", "--dry-run"])
    assert done.exit_code == 0 and "36 frames, 22 of them new" in done.output, done.output
    assert http.get("/jobs").json()["jobs"] == []


def test_a_request_that_is_sent_again_makes_no_second_job(
    http: httpx.Client, source: Callable[[Answer], str], clip: Path
) -> None:
    headers = {"Idempotency-Key": '"k1"'}
    url = source(sending(clip.read_bytes()))
    first = http.post("/jobs", json={"source_url": url}, headers=headers)
    source(sending(b"", 404))  # the second does not even ask
    again = http.post("/jobs", json={"source_url": url}, headers=headers)
    assert again.json()["id"] == first.json()["id"]
    other = http.post("/jobs", json={"source_url": url + "x"}, headers=headers)
    assert_problem(other, 422, "idempotency-key-reused")


@pytest.mark.parametrize(
    ("answer", "status", "slug", "reason"),
    [
        (sending(b"", 404), 502, "source-unreachable", "answered 404"),
        (sending(b"", 302, Location="http://127.0.0.1/"), 502, "source-unreachable", "redirects"),
        (sending(b"x" * 10, Content_Encoding="gzip"), 502, "source-unreachable", "encoding"),
        (sending(b""), 502, "source-unreachable", "no byte"),
        (sending(b"x" * 10, Content_Length="20"), 502, "source-unreachable", "connection failed"),
        (sending(b"x" * 10, Content_Length="200000"), 413, "source-too-large", "100000 bytes"),
        (chunked(b"x" * 200_000), 413, "source-too-large", "100000 bytes"),
        (sending(b"x" * 1000), 422, "unreadable-video", ""),
    ],
)
def test_what_cannot_be_fetched_is_said_and_leaves_nothing(
    settings: Settings,
    source: Callable[[Answer], str],
    debris: Callable[[], list[str]],
    answer: Answer,
    status: int,
    slug: str,
    reason: str,
) -> None:
    limited = settings.model_copy(update={"max_upload_bytes": 100_000})
    with serve(limited) as url, httpx.Client(base_url=url, timeout=30) as http:
        problem = assert_problem(http.post("/jobs", json={"source_url": source(answer)}), status, slug)
    assert reason in problem["detail"] and "t0ken" not in problem["detail"]
    assert not debris()


@pytest.mark.parametrize(("limit", "pause"), [("IDLE_SECONDS", 30), ("TOTAL_SECONDS", 0.05)])
def test_a_server_that_stops_sending_or_takes_too_long_is_left(
    http: httpx.Client,
    source: Callable[[Answer], str],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    pause: float,
) -> None:
    monkeypatch.setattr(sources, limit, 0.3)
    gone = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        sending(b"x" * 10, Content_Length="1000")(handler)
        with suppress(OSError):
            for _ in range(400):
                if gone.wait(pause):
                    break
                handler.wfile.write(b"x")

    try:
        response = http.post("/jobs", json={"source_url": source(drip)})
    finally:
        gone.set()
    assert "in time" in assert_problem(response, 502, "source-unreachable")["detail"]


class Dripping:
    """Answers that announce `size` bytes and never end; `open` is how many are under way."""

    def __init__(self, size: int | None = 4_000_000_000) -> None:
        self.size = size
        self.open = 0
        self.over = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if self.size is not None:
            handler.send_header("Content-Length", str(self.size))
        handler.end_headers()
        self._count(1)
        with suppress(OSError):
            while not self.over.wait(0.01):
                handler.wfile.write(b"x" * 1000)
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.open += change


@pytest.fixture
def dripping() -> Iterator[Dripping]:
    drip = Dripping()
    yield drip
    drip.over.set()


def ask(url: str, source_url: str, headers: dict[str, str]) -> socket.socket:
    """A connection that has sent a request to fetch `source_url`, and reads no answer."""
    body = json.dumps({"source_url": source_url}).encode()
    lines = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    } | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 30)
    connection.sendall(f"POST /jobs HTTP/1.1\r\n{head}\r\n".encode() + body)
    return connection


def test_an_owner_has_few_fetches_at_a_time_and_each_ends_with_its_client(
    url: str,
    http: httpx.Client,
    source: Callable[[Answer], str],
    dripping: Dripping,
    debris: Callable[[], list[str]],
    make_key: Callable[..., dict[str, str]],
    clip: Path,
) -> None:
    ann, bob = make_key("ann"), make_key("bob")
    slow = source(dripping)
    asked = [ask(url, slow, ann) for _ in range(sources.MOST_OF_ONE)]
    until(lambda: dripping.open == sources.MOST_OF_ONE)
    one_more = http.post("/jobs", json={"source_url": slow}, headers=ann)
    assert_problem(one_more, 429, "too-many-uploads")
    assert one_more.headers["Retry-After"]
    body = {"source_url": source(sending(clip.read_bytes()))}
    assert http.post("/jobs", json=body, headers=bob).status_code == 202
    for connection in asked:
        connection.close()
    until(lambda: not dripping.open)
    assert http.post("/jobs", json=body, headers=ann).status_code == 202
    until(lambda: not [name for name in debris() if "/scratch/" in name])


@pytest.mark.parametrize("size", [4_000_000_000, None])
def test_a_fetch_is_bounded_by_the_bytes_that_its_owner_has_left(
    http: httpx.Client,
    source: Callable[[Answer], str],
    dripping: Dripping,
    make_key: Callable[..., dict[str, str]],
    size: int | None,
) -> None:
    ann = make_key("ann", quota=Quota(jobs=2, bytes=20_000))
    dripping.size = size
    for path in ("/jobs", "/jobs/estimate"):
        response = http.post(path, json={"source_url": source(dripping)}, headers=ann)
        problem = assert_problem(response, 429, "quota-exceeded")
        assert (problem["quota"], problem["limit"], problem["used"]) == ("bytes", 20_000, 0)
        assert 0 < int(response.headers["Retry-After"]) <= 86400
    until(lambda: not dripping.open)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://10.0.0.1/clip.mp4", "not public"),
        ("https://169.254.169.254/latest/meta-data", "not public"),
        ("file:///etc/passwd", "https://"),
        ("http://1.1.1.1/clip.mp4", "https://"),
        ("https://xn--a/x", "no URL"),
        ("https://127.0.0.1:99999/x", "no URL"),
        ("https://[::1%eth0]/", "no URL"),
        ("https://me:s3cret@example.com/clip.mp4", "leave it out"),
    ],
)
def test_a_url_that_leads_elsewhere_is_refused(
    settings: Settings, debris: Callable[[], list[str]], url: str, reason: str
) -> None:
    with serve(settings) as service, httpx.Client(base_url=service, timeout=30) as http:
        problem = assert_problem(http.post("/jobs", json={"source_url": url}), 422, "source-refused")
    assert reason in problem["detail"] and "s3cret" not in problem["detail"]
    assert not debris()


@pytest.mark.parametrize(
    ("body", "slug", "status", "reason"),
    [
        (b"{}", "invalid-upload", 400, "names no video"),
        (b"[1]", "invalid-upload", 400, "no JSON object"),
        (b"{", "invalid-upload", 400, "no JSON object"),
        (b"[" * 50_000, "invalid-upload", 400, "no JSON object"),
        (b" " * 70_000 + b"{}", "invalid-upload", 400, "65536 bytes"),
        (b'{"source_url": "https://1.1.1.1/", "fcator": 2}', "invalid-option", 422, "'factor'"),
        (b'{"source_url": 1}', "source-refused", 422, "https://"),
    ],
)
def test_a_json_body_that_is_none_is_refused(
    http: httpx.Client, debris: Callable[[], list[str]], body: bytes, slug: str, status: int, reason: str
) -> None:
    response = http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert reason in assert_problem(response, status, slug)["detail"]
    assert not debris()


@pytest.mark.parametrize("first", ["source_url", "file"])
def test_one_video_is_sent_or_named_not_both(http: httpx.Client, clip: Path, first: str) -> None:
    parts = [("source_url", (None, b"https://1.1.1.1/")), ("file", ("clip.mp4", clip.read_bytes()))]
    response = http.post("/jobs", files=parts if first == "source_url" else parts[::-1])
    assert "do one of them" in assert_problem(response, 400, "invalid-upload")["detail"]
    query = http.post("/jobs?source_url=https://1.1.1.1/", content=clip.read_bytes())
    assert "do one of them" in assert_problem(query, 400, "invalid-upload")["detail"]


def test_webhook_events_may_be_a_list(http: httpx.Client) -> None:
    body = json.dumps({"source_url": "https://10.0.0.1/", "webhook_events": ["job.done"]})
    response = http.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert "'job.done'" in assert_problem(response, 422, "invalid-option")["detail"]
