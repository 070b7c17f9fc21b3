"""Who may call the API, when, and what of: keys, scopes, rates, owners."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import Request

from service.api.app import create_app
from service.api.auth import OPEN, is_scrape
from service.jobs.keys import FileKeys, Key, Quota, open_keys
from service.jobs.machine import Jobs
from service.settings import Settings
from service.store.local import LocalStore
from service.up import claim_port
from tests.api import assert_problem, serve, until

MakeKey = Callable[..., dict[str, str]]
RAW = {"Content-Type": "video/mp4"}
NEVER_MADE = f"Bearer dain_{'0' * 12}_{'0' * 64}"


def submit(http: httpx.Client, clip: Path, headers: dict[str, str]) -> httpx.Response:
    return http.post("/jobs", content=clip.read_bytes(), headers=RAW | headers)


# -- keys -----------------------------------------------------------------------------------------


def test_without_keys_this_machines_users_need_none(http: httpx.Client) -> None:
    assert http.get("/jobs").status_code == 200
    assert http.get("/workers").status_code == http.get("/metrics").status_code == 200


class TestReachableFromElsewhere:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"host": "0.0.0.0"})

    def test_without_keys_nobody_is_let_in(self, http: httpx.Client) -> None:
        assert_problem(http.get("/jobs"), 401, "unauthorized")

    def test_unless_it_is_open_on_purpose(self, settings: Settings, make_key: MakeKey) -> None:
        with serve(settings.model_copy(update={"open": True})) as url:
            assert httpx.get(f"{url}/jobs").status_code == 200
            make_key("ann")
            assert httpx.get(f"{url}/jobs").status_code == 401  # once there are keys, they count


def test_with_keys_each_route_but_the_open_ones_wants_one(http: httpx.Client, make_key: MakeKey) -> None:
    make_key("ann")
    for path in OPEN - {"/readyz"}:
        assert http.get(path).status_code == 200
    assert_problem(http.get("/readyz"), 503, "not-ready")
    for method, path in [("GET", "/jobs"), ("POST", "/jobs"), ("DELETE", f"/jobs/{'0' * 28}"), ("GET", "/metrics"),
                         ("GET", "/workers"), ("GET", "/nothing"), ("GET", "/healthz/")]:  # fmt: skip
        response = http.request(method, path)
        assert_problem(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic YW5uOmRhaW4=",
        NEVER_MADE,
        "Bearer hunter2",
        "Bearer dain_x_y",
        "bearer " + "é" * 9,
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(
    header: str, http: httpx.Client, make_key: MakeKey, caplog: pytest.LogCaptureFixture
) -> None:
    make_key("ann")
    response = http.get("/jobs", headers={b"Authorization": header.encode("latin-1")})
    assert_problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    said = response.text + repr(response.headers) + caplog.text
    assert not any(secret in said for secret in (NEVER_MADE[-64:], "hunter2", "YW5u", "ééé"))


def test_a_token_is_whole(http: httpx.Client, make_key: MakeKey) -> None:
    token = make_key("ann")["Authorization"]
    assert http.get("/jobs", headers={"Authorization": token.replace("Bearer", "bearer")}).status_code == 200
    for wrong in (token[:-1], token + "0", token[:-1] + ("1" if token[-1] == "0" else "0")):
        problem = assert_problem(http.get("/jobs", headers={"Authorization": wrong}), 401, "unauthorized")
        assert token[-64:-1] not in str(problem)


def test_a_key_ends_when_it_expires_and_when_it_is_revoked(
    http: httpx.Client, make_key: MakeKey, settings: Settings
) -> None:
    expired = http.get("/jobs", headers=make_key("ann", expires_at=time.time() - 1))
    assert "expired" in assert_problem(expired, 401, "unauthorized")["detail"]
    one, other = make_key("ann", expires_at=time.time() + 60), make_key("ann")
    assert http.get("/jobs", headers=one).status_code == http.get("/jobs", headers=other).status_code == 200
    keys = open_keys(settings)
    key = next(key for key in keys.all().values() if key.has(one["Authorization"].removeprefix("Bearer ")))
    keys.put(key.model_copy(update={"revoked_at": time.time()}))
    assert "revoked" in assert_problem(http.get("/jobs", headers=one), 401, "unauthorized")["detail"]
    assert http.get("/jobs", headers=other).status_code == 200


def test_whoever_revokes_the_last_key_does_not_open_the_service(
    http: httpx.Client, settings: Settings
) -> None:
    key, _ = Key.new("ann", ["read"], revoked_at=1.0)
    open_keys(settings).put(key)
    assert_problem(http.get("/jobs"), 401, "unauthorized")


def test_redis_is_asked_for_keys_once_a_second(http: httpx.Client, settings: Settings) -> None:
    assert http.get("/jobs").status_code == 200
    key, _ = Key.new("ann", ["read"])
    open_keys(settings).put(key)
    until(lambda: http.get("/jobs").status_code == 401)


class TestFile:
    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        return settings.model_copy(update={"keys_file": tmp_path / "keys.json"})

    def test_is_read_again_when_it_has_changed(
        self, http: httpx.Client, make_key: MakeKey, settings: Settings
    ) -> None:
        ann = make_key("ann")
        assert http.get("/jobs", headers=ann).status_code == 200
        bob = make_key("bob")
        assert http.get("/jobs", headers=bob).status_code == http.get("/jobs", headers=ann).status_code == 200

    @pytest.mark.parametrize("content", [None, "", "{}", '{"keys": 3}', '{"keys": {"a": {}}}'])
    def test_lets_nobody_in_while_it_cannot_be_read(
        self, content: str | None, http: httpx.Client, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert settings.keys_file is not None
        if content is not None:
            settings.keys_file.write_text(content)
        response = http.get("/jobs")
        problem = assert_problem(response, 503, "keys-unreadable")
        assert int(response.headers["Retry-After"]) > 0
        said = "There is no file of keys" if content is None else "cannot be read"
        assert said in caplog.text and str(settings.keys_file) not in str(problem)
        FileKeys(settings.keys_file)._write({})
        assert http.get("/jobs").status_code == 200


# -- before the body ------------------------------------------------------------------------------


@pytest.fixture
def answer_to(url: str) -> Iterator[Callable[[dict[str, str], int], bytes]]:
    """Sends the headers of an upload and no byte of its body; gives the first line of the answer."""
    address = httpx.URL(url)
    connections = []

    def send(headers: dict[str, str], length: int) -> bytes:
        connection = socket.create_connection((address.host, address.port or 80), timeout=30)
        connections.append(connection)
        lines = {"Host": "localhost", "Content-Length": str(length)} | RAW | headers
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"POST /jobs HTTP/1.1\r\n{head}\r\n".encode())
        return connection.recv(100).partition(b"\r\n")[0]

    yield send
    for connection in connections:
        connection.close()


def test_whoever_is_refused_is_refused_before_a_byte_of_the_body(
    answer_to: Callable[[dict[str, str], int], bytes], make_key: MakeKey, settings: Settings
) -> None:
    ann, reader, hasty = make_key("ann"), make_key("ann", "read"), make_key("ann", rate=1)
    assert answer_to({}, 4000) == b"HTTP/1.1 401 Unauthorized"
    assert answer_to({"Authorization": NEVER_MADE}, 4000) == b"HTTP/1.1 401 Unauthorized"
    assert answer_to(reader, 4000) == b"HTTP/1.1 403 Forbidden"
    assert answer_to(ann, 2 * settings.max_upload_bytes).startswith(b"HTTP/1.1 413 ")
    assert answer_to(hasty, 2 * settings.max_upload_bytes).startswith(b"HTTP/1.1 413 ")
    assert answer_to(hasty, 4000) == b"HTTP/1.1 429 Too Many Requests"


# -- scopes ---------------------------------------------------------------------------------------


def test_a_key_allows_what_its_scopes_say(http: httpx.Client, make_key: MakeKey, clip: Path) -> None:
    scopes = ("submit", "read", "admin")
    keys = {scope: make_key("ann", scope) for scope in scopes}
    job = submit(http, clip, keys["submit"]).json()["id"]
    for wanted, method, path in [
        ("submit", "POST", "/jobs"),
        ("read", "GET", "/jobs"),
        ("read", "GET", f"/jobs/{job}"),
        ("read", "GET", f"/jobs/{job}/result"),
        ("admin", "GET", "/workers"),
        ("admin", "GET", "/metrics"),
        ("submit", "POST", f"/jobs/{job}/cancel"),
        ("submit", "DELETE", f"/jobs/{job}"),
    ]:
        for scope in sorted(scopes, key=lambda scope: scope == wanted):
            response = http.request(method, path, headers=keys[scope])
            if scope == wanted:
                assert response.status_code not in (401, 403)
            else:
                assert wanted in assert_problem(response, 403, "forbidden")["detail"]


def test_every_route_that_is_not_open_names_a_scope(settings: Settings) -> None:
    paths = create_app(settings).openapi()["paths"]
    assert len(paths.keys() - OPEN) >= 5
    for path, calls in paths.items():
        for method, call in calls.items():
            scopes = [
                scope for each in call.get("security", ()) for names in each.values() for scope in names
            ]
            assert bool(scopes) is (path not in OPEN), f"{method} {path}"


def test_metrics_have_a_port_of_their_own(settings: Settings, make_key: MakeKey) -> None:
    make_key("ann")
    ports = [claim_port("127.0.0.1", 0) for _ in range(2)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAIN_")}
    environment |= {f"DAIN_{name}": str(value) for name, value in {
        "REDIS_URL": settings.redis_url, "STATE_DIR": settings.state_dir,
        "PORT": ports[0], "METRICS_PORT": ports[1]}.items()}  # fmt: skip
    with subprocess.Popen([sys.executable, "-m", "service.api.app"], env=environment) as api:
        url, metrics_url = (f"http://127.0.0.1:{port}" for port in ports)
        try:
            until(lambda: answers(url) and answers(metrics_url))
            assert httpx.get(f"{metrics_url}/metrics").text.startswith("# HELP")
            for closed in (f"{url}/metrics", f"{metrics_url}/jobs", f"{metrics_url}/workers"):
                assert_problem(httpx.get(closed), 401, "unauthorized")
        finally:
            api.terminate()


def test_where_there_is_no_port_for_metrics_a_socket_without_a_port_is_none(settings: Settings) -> None:
    app = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(settings=settings)))
    scope = {"type": "http", "path": "/metrics", "app": app}
    for server in (None, ("/run/dain.sock", None)):
        assert not is_scrape(Request({**scope, "server": server}))


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


# -- rates ----------------------------------------------------------------------------------------


def test_a_key_sends_no_more_requests_than_its_rate(http: httpx.Client, make_key: MakeKey) -> None:
    ann, bob = make_key("ann", rate=3), make_key("bob", rate=3)
    for left in (2, 1, 0):
        response = http.get("/jobs", headers=ann)
        assert response.status_code == 200
        assert response.headers["RateLimit-Policy"] == '"requests";q=3;w=60'
        assert response.headers["RateLimit"].startswith(f'"requests";r={left};t=')
    response = http.get("/jobs", headers=ann)
    assert_problem(response, 429, "rate-limited")
    assert response.headers["RateLimit"].startswith('"requests";r=0;t=')
    assert 1 <= int(response.headers["Retry-After"]) <= 20  # a third of a minute brings one request
    missing = http.get(f"/jobs/{'0' * 28}", headers=bob)
    assert_problem(missing, 404, "job-not-found")
    assert missing.headers["RateLimit"].startswith('"requests";r=2;')
    assert "RateLimit" not in http.get("/jobs", headers=make_key("ann")).headers


# -- quotas ---------------------------------------------------------------------------------------


def test_uploads_that_come_at_once_go_beyond_no_quota_and_leave_nothing(
    url: str, make_key: MakeKey, clip: Path, jobs: Jobs, store: LocalStore
) -> None:
    ann = make_key("ann", quota=Quota(jobs=2))
    with httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: submit(http, clip, ann), range(6)))
        accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        assert len(accepted) == 2
        for answer in answers:
            if answer.status_code != 202 and not answer.json()["type"].endswith("too-many-uploads"):
                assert_problem(answer, 429, "quota-exceeded")
        assert sorted(store.keys("uploads/")) == sorted(f"uploads/{job}" for job in accepted)
        assert jobs.counts()["queued"] == 2
        assert submit(http, clip, make_key("bob", quota=Quota(jobs=2))).status_code == 202


def test_what_a_quota_does_not_allow_is_refused_before_a_byte_of_the_body(
    answer_to: Callable[[dict[str, str], int], bytes], make_key: MakeKey
) -> None:
    assert answer_to(make_key("ann", quota=Quota(bytes=3999)), 4000).startswith(b"HTTP/1.1 429 ")
    assert answer_to(make_key("ann", quota=Quota(jobs=0)), 4000).startswith(b"HTTP/1.1 429 ")


def test_bytes_are_counted_by_the_day_and_a_repeat_is_free(
    http: httpx.Client, make_key: MakeKey, clip: Path
) -> None:
    size = clip.stat().st_size
    ann = make_key("ann", quota=Quota(bytes=2 * size), rate=100) | {"Idempotency-Key": '"k"'}
    first = submit(http, clip, ann)
    assert first.status_code == 202
    assert submit(http, clip, ann | {"Idempotency-Key": '"l"'}).status_code == 202
    response = submit(http, clip, ann | {"Idempotency-Key": '"m"'})
    problem = assert_problem(response, 429, "quota-exceeded")
    assert (problem["quota"], problem["limit"], problem["used"]) == ("bytes", 2 * size, 2 * size)
    assert 0 < int(response.headers["Retry-After"]) <= 24 * 3600
    policies = response.headers.get_list("RateLimit-Policy")
    assert sorted(policies) == [f'"bytes";q={2 * size};qu="content-bytes";w=86400', '"requests";q=100;w=60']
    assert submit(http, clip, ann).json()["id"] == first.json()["id"]


def test_an_upload_that_comes_before_its_job_counts_when_it_is_announced_and_once(
    http: httpx.Client, make_key: MakeKey, clip: Path
) -> None:
    content = clip.read_bytes()
    ann = make_key("ann", quota=Quota(bytes=len(content)))
    tus = ann | {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content))}
    announced = http.post("/uploads", headers=tus)
    assert announced.status_code == 201
    problem = assert_problem(http.post("/uploads", headers=tus), 429, "quota-exceeded")
    assert problem["used"] == len(content)
    assert_problem(submit(http, clip, ann), 429, "quota-exceeded")
    path = announced.headers["Location"]
    piece = tus | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert http.patch(path, content=content, headers=piece).status_code == 204
    upload = {"upload": path.removeprefix("/uploads/")}
    assert http.post("/jobs", params=upload, headers=ann).status_code == 202


# -- owners ---------------------------------------------------------------------------------------


def test_a_job_is_its_owners_alone_on_every_route(
    http: httpx.Client,
    make_key: MakeKey,
    clip: Path,
    finish: Callable[[str, bytes], None],
    settings: Settings,
) -> None:
    ann, ann_too, bob = make_key("ann"), make_key("ann"), make_key("bob", "submit", "read", "admin")
    job = submit(http, clip, ann).json()["id"]
    finish(job, b"a video")
    routes = create_app(settings).openapi()["paths"].items()
    calls = [(method, path) for path, methods in routes if "{job_id}" in path for method in methods]
    assert {("delete", "/jobs/{job_id}"), ("get", "/jobs/{job_id}/events")} <= set(calls)
    for method, path in calls:
        response = http.request(method.upper(), path.format(job_id=job), headers=bob)
        assert_problem(response, 404, "job-not-found")
    assert http.head(f"/jobs/{job}/result", headers=bob).status_code == 404
    assert http.get("/jobs", headers=bob).json()["jobs"] == []
    for own in (ann, ann_too):
        assert [each["id"] for each in http.get("/jobs", headers=own).json()["jobs"]] == [job]
        assert http.get(f"/jobs/{job}/result", headers=own).content == b"a video"
    assert http.delete(f"/jobs/{job}", headers=ann_too).status_code == 204


def test_an_idempotency_key_is_its_owners_alone(http: httpx.Client, make_key: MakeKey, clip: Path) -> None:
    ann, bob = make_key("ann"), make_key("bob")
    jobs = [submit(http, clip, key | {"Idempotency-Key": '"k"'}).json()["id"] for key in (ann, bob, ann)]
    assert jobs[0] == jobs[2] != jobs[1]


def test_jobs_of_the_time_without_keys_belong_to_the_name_default(
    http: httpx.Client, make_key: MakeKey, clip: Path, jobs: Jobs
) -> None:
    job = submit(http, clip, {}).json()["id"]
    ann, default = make_key("ann"), make_key("default")
    assert http.get(f"/jobs/{job}", headers=ann).status_code == 404
    assert http.get(f"/jobs/{job}", headers=default).status_code == 200
