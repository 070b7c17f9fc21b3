"""Resumable uploads: what has arrived stays, whatever happens to the connection, and a job is made of it."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api import tus
from service.jobs import incoming
from service.jobs.incoming import Incoming, Upload
from service.jobs.janitor import Janitor
from service.jobs.machine import Jobs
from service.jobs.names import new_job_id
from service.jobs.queue import Queue
from service.jobs.workers import Workers
from service.settings import Settings
from service.store import Store
from service.up import claim_port
from tests import s3
from tests.api import assert_problem, until

TUS = {"Tus-Resumable": "1.0.0"}


def begin(http: httpx.Client, size: int, **headers: str) -> str:
    """The path of a new upload."""
    response = http.post("/uploads", headers=TUS | {"Upload-Length": str(size)} | headers)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


def patch(
    http: httpx.Client, path: str, offset: int, body: bytes | Iterator[bytes], **headers: str
) -> httpx.Response:
    given = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.patch(path, content=body, headers=TUS | given | named)


def offset_of(http: httpx.Client, path: str) -> int:
    response = http.head(path, headers=TUS)
    assert response.status_code == 200
    return int(response.headers["Upload-Offset"])


def checksum(body: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, body).digest()).decode()}"


class TestInAFolder:
    """As in a store that is a folder; `TestInABucket` does the same in a bucket."""

    def test_a_job_of_an_upload_in_pieces(
        self, http: httpx.Client, clip: Path, jobs: Jobs, store: Store
    ) -> None:
        video = clip.read_bytes()
        name = base64.b64encode("żółw.mp4".encode()).decode()
        path = begin(http, len(video), **{"Upload-Metadata": f"filename {name},private"})
        head = http.head(path, headers=TUS)
        assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("0", str(len(video)))
        assert head.headers["Cache-Control"] == "no-store" and head.headers["Upload-Expires"]
        upload_id = path.rpartition("/")[2]
        assert_problem(http.post(f"/jobs?upload={upload_id}"), 409, "upload-missing")
        middle = len(video) // 3
        for first, last in ((0, middle), (middle, len(video))):
            piece = video[first:last]
            response = patch(http, path, first, piece, Upload_Checksum=checksum(piece))
            assert (response.status_code, response.headers["Upload-Offset"]) == (204, str(last))
            assert response.headers["Tus-Resumable"] == "1.0.0"
        mask = b"\x89PNG\r\n\x1a\n and what follows"
        response = http.post("/jobs", params={"upload": upload_id, "factor": "3"}, files={"mask": mask})
        assert response.status_code == 202, response.text
        job = jobs.get(response.json()["id"])
        assert (job.filename, job.input["frames"], job.options.factor) == ("żółw.mp4", 12, 3)
        with store.fetch(f"masks/{job.id}", sha256=job.options.mask) as stored:
            assert stored.read_bytes() == mask
        assert job.source_sha256 == hashlib.sha256(video).hexdigest()
        with store.fetch(job.source) as stored:
            assert stored.read_bytes() == video
        assert http.delete(path, headers=TUS).status_code == 204
        assert list(store.keys("incoming/")) == []
        assert_problem(http.post(f"/jobs?upload={upload_id}"), 404, "upload-not-found")
        assert list(store.keys("uploads/")) == [job.source]


class TestInABucket(TestInAFolder):
    @pytest.fixture
    def settings(self, settings: Settings, bucket: s3.Bucket) -> Settings:
        return settings.model_copy(update={"store_url": bucket.url})

    @pytest.fixture
    def store(self, settings: Settings) -> Store:
        return settings.open_store()


def test_a_mask_in_the_metadata_is_refused_before_the_video_comes(http: httpx.Client, store: Store) -> None:
    mask = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    headers = TUS | {"Upload-Length": "9", "Upload-Metadata": f"filename YQ==,mask {mask}"}
    refused = assert_problem(http.post("/uploads", headers=headers), 422, "invalid-option")
    assert "part `mask` of a form" in refused["detail"] and "tus" in refused["detail"]
    assert list(store.keys("incoming/")) == []


def test_what_the_server_can(http: httpx.Client, settings: Settings) -> None:
    response = http.options("/uploads")
    assert response.status_code == 204
    assert response.headers["Tus-Version"] == "1.0.0"
    assert response.headers["Tus-Max-Size"] == str(int(settings.max_upload_bytes))
    assert set(response.headers["Tus-Extension"].split(",")) >= {"creation", "checksum", "termination"}
    assert "sha1" in response.headers["Tus-Checksum-Algorithm"]


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"Upload-Length": "5"}, 422, "invalid-request"),
        (TUS, 400, "invalid-upload"),
        (TUS | {"Upload-Length": "0"}, 400, "invalid-upload"),
        (TUS | {"Upload-Length": "-1"}, 400, "invalid-upload"),
        (TUS | {"Upload-Length": "9" * 30}, 400, "invalid-upload"),
        (TUS | {"Upload-Defer-Length": "1"}, 400, "invalid-upload"),
        (TUS | {"Upload-Length": str(2**50)}, 413, "upload-too-large"),
        ({"Tus-Resumable": "0.2.2", "Upload-Length": "5"}, 412, "unsupported-tus-version"),
    ],
)
def test_what_cannot_begin(
    headers: dict[str, str], status: int, slug: str, http: httpx.Client, redis: Redis
) -> None:
    response = http.post("/uploads", headers=headers)
    assert_problem(response, status, slug)
    assert redis.keys("dain:incoming:*") == []
    if status == 412:
        assert response.headers["Tus-Version"] == "1.0.0"


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ({"colour": "1"}, 422, "invalid-option"),
        ({"factor": "99"}, 422, "invalid-option"),
        ({"factor": "3", "target_fps": "60"}, 422, "invalid-option"),
        ({"model": "mine"}, 422, "invalid-option"),
        ({"codec": "av1_nvenc"}, 422, "codec-unavailable"),
        ({"webhook_url": "https://127.0.0.1/"}, 422, "webhook-refused"),
        ({"webhook_events": "job.failed"}, 422, "invalid-option"),
        ([("factor", "3"), ("factor", "4")], 400, "invalid-upload"),
    ],
)
def test_options_are_refused_before_a_byte_is_sent_as_those_of_a_job(
    query: Any, status: int, slug: str, http: httpx.Client, clip: Path, redis: Redis
) -> None:
    response = http.post("/uploads", params=query, headers=TUS | {"Upload-Length": "5"})
    problem = assert_problem(response, status, slug)
    assert redis.keys("dain:incoming:*") == []
    of_a_job = http.post("/jobs", params=query, content=clip.read_bytes()).json()
    assert of_a_job | {"instance": "/uploads"} == problem


def test_what_begins_is_a_document_too(http: httpx.Client, jobs: Jobs, clip: Path) -> None:
    video = clip.read_bytes()
    query = {"factor": "3", "priority": "high", "filename": "holiday.mp4"}
    response = http.post("/uploads", params=query, headers=TUS | {"Upload-Length": str(len(video))})
    begun = response.json()
    assert response.headers["Location"] == f"/uploads/{begun['id']}" == begun["url"]
    expires = parsedate_to_datetime(response.headers["Upload-Expires"])
    assert int(begun["expires_at"]) == expires.timestamp()
    assert patch(http, begun["url"], 0, video, **begun["headers"]).status_code == 204
    job = http.post("/jobs", params={"upload": begun["id"]}).json()
    assert (job["filename"], job["options"]["factor"]) == ("holiday.mp4", 2)


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"Upload_Offset": "1"}, 409, "another-offset"),
        ({"Upload_Offset": "x"}, 400, "invalid-upload"),
        ({"Content_Type": "video/mp4"}, 415, "unsupported-media-type"),
        ({"Tus_Resumable": "2.0.0"}, 412, "unsupported-tus-version"),
        ({"Upload_Checksum": "sha256 AAAA"}, 460, "checksum-mismatch"),
        ({"Upload_Checksum": "sha256 *"}, 400, "invalid-upload"),
        ({"Upload_Checksum": "crc32 AAAA"}, 400, "invalid-upload"),
    ],
)
def test_what_is_not_appended(
    headers: dict[str, str], status: int, slug: str, http: httpx.Client, store: Store
) -> None:
    path = begin(http, 10)
    assert_problem(patch(http, path, 0, b"12345", **headers), status, slug)
    assert offset_of(http, path) == 0
    assert list(store.keys("incoming/")) == []
    assert patch(http, path, 0, b"12345").headers["Upload-Offset"] == "5"


def test_more_than_was_announced_is_not_taken(http: httpx.Client) -> None:
    path = begin(http, 10)
    assert "10 bytes" in assert_problem(patch(http, path, 0, b"x" * 11), 413, "upload-too-large")["detail"]
    response = patch(http, path, 0, iter([b"x" * 11]))  # in chunks, so that no size is announced
    assert "10 bytes (Upload-Length)" in assert_problem(response, 413, "upload-too-large")["detail"]
    assert offset_of(http, path) == 0


def test_another_owners_upload_is_not_there(http: httpx.Client, redis: Redis) -> None:
    upload_id = new_job_id()
    Incoming(redis).add(upload_id, Upload(owner="someone-else", size_bytes=5, parts=()))
    path = f"/uploads/{upload_id}"
    assert http.head(path, headers=TUS).status_code == 404
    assert_problem(patch(http, path, 0, b"12345"), 404, "upload-not-found")
    assert_problem(http.delete(path, headers=TUS), 404, "upload-not-found")
    assert_problem(http.post(f"/jobs?upload={upload_id}"), 404, "upload-not-found")
    assert redis.exists(f"dain:incoming:{upload_id}")


def test_an_upload_to_the_store_itself_is_not_for_tus(http: httpx.Client, redis: Redis) -> None:
    upload_id = new_job_id()
    Incoming(redis).add(upload_id, Upload(owner="default", size_bytes=5))
    assert_problem(patch(http, f"/uploads/{upload_id}", 0, b"12345"), 400, "invalid-upload")


def test_an_upload_to_the_store_itself_is_removed(
    http: httpx.Client, redis: Redis, store: Store, tmp_path: Path
) -> None:
    upload_id = new_job_id()
    Incoming(redis).add(upload_id, Upload(owner="default", size_bytes=5))
    (tmp_path / "film").write_bytes(b"12345")
    store.put(tmp_path / "film", f"incoming/{upload_id}")
    problem = assert_problem(http.delete(f"/uploads/{upload_id}"), 412, "unsupported-tus-version")
    assert "Send the header `Tus-Resumable: 1.0.0`" in problem["detail"]
    assert http.delete(f"/uploads/{upload_id}", headers=TUS).status_code == 204
    assert list(store.keys("incoming/")) == []
    assert_problem(http.post(f"/jobs?upload={upload_id}"), 404, "upload-not-found")


def half_a_patch(url: str, path: str, size: int, body: bytes, headers: str = "") -> socket.socket:
    """A connection on which the first bytes of a PATCH with `size` bytes have been sent."""
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port or 80))
    head = (
        f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {size}\r\n{headers}\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def test_what_came_before_the_connection_broke_is_kept(url: str, http: httpx.Client, store: Store) -> None:
    path = begin(http, 3_000_000)
    body = b"x" * 1_500_000
    with half_a_patch(url, path, 3_000_000, body):
        until(lambda: list((store.root / "scratch").rglob("part")))
    until(lambda: offset_of(http, path) == len(body))
    assert patch(http, path, len(body), b"y" * 1_500_000).headers["Upload-Offset"] == "3000000"


def test_what_has_a_checksum_is_kept_whole_or_not_at_all(url: str, http: httpx.Client, store: Store) -> None:
    path = begin(http, 3_000_000)
    digest = checksum(b"x" * 3_000_000)
    with half_a_patch(url, path, 3_000_000, b"x" * 1_500_000, f"Upload-Checksum: {digest}\r\n"):
        until(lambda: list((store.root / "scratch").rglob("part")))
    until(lambda: not list((store.root / "scratch").iterdir()))
    assert offset_of(http, path) == 0


def test_a_long_body_is_safe_piece_by_piece(
    url: str, http: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the API is killed in the midst of it."""
    monkeypatch.setattr(tus, "PART_BYTES", 50_000)
    path = begin(http, 3_000_000)
    with half_a_patch(url, path, 3_000_000, b"x" * 1_500_000):
        until(lambda: offset_of(http, path) > 1_000_000)
        assert len(list(store.keys("incoming/"))) > 1


def test_two_that_bring_the_same_bytes(url: str, http: httpx.Client, store: Store) -> None:
    path = begin(http, 4_000_000)
    with half_a_patch(url, path, 4_000_000, b"x" * 1_500_000) as slow:
        until(lambda: list((store.root / "scratch").rglob("part")))
        assert patch(http, path, 0, b"y" * 4_000_000).status_code == 204
        slow.sendall(b"x" * 2_500_000)
        assert slow.recv(100).startswith(b"HTTP/1.1 409 ")
    assert offset_of(http, path) == 4_000_000
    assert len(list(store.keys("incoming/"))) == 1


def test_an_upload_that_is_removed_meanwhile_leaves_nothing(
    url: str, http: httpx.Client, store: Store, debris: Callable[[], list[str]]
) -> None:
    path = begin(http, 1000)
    with half_a_patch(url, path, 1000, b"x" * 500) as slow:
        until(lambda: list((store.root / "scratch").rglob("part")))
        assert http.delete(path, headers=TUS).status_code == 204
        slow.sendall(b"x" * 500)
        assert slow.recv(100).startswith(b"HTTP/1.1 404 ")
    until(lambda: debris() == [])


def test_too_many_pieces(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tus, "MOST_PARTS", 2)
    path = begin(http, 10)
    for offset in range(2):
        assert patch(http, path, offset, b"x").status_code == 204
    assert "larger ones" in assert_problem(patch(http, path, 2, b"x"), 400, "invalid-upload")["detail"]


def test_a_part_that_the_store_damaged_makes_no_job(http: httpx.Client, clip: Path, store: Store) -> None:
    video = clip.read_bytes()
    path = begin(http, len(video))
    patch(http, path, 0, video)
    [key] = store.keys("incoming/")
    with store.fetch(key) as part:
        part.write_bytes(bytes(len(video)))
    response = http.post(f"/jobs?upload={path.rpartition('/')[2]}")
    assert "send it again" in assert_problem(response, 400, "invalid-upload")["detail"]


def test_an_upload_goes_on_after_the_api_was_killed(settings: Settings, clip: Path, jobs: Jobs) -> None:
    padding = 40 * 2**20  # which ends before the third part does
    video = clip.read_bytes() + (padding + 8).to_bytes(4, "big") + b"free" + bytes(padding)
    port = claim_port("127.0.0.1", 0)
    given = {
        "DAIN_REDIS_URL": settings.require_redis_url,
        "DAIN_STATE_DIR": str(settings.state_dir),
        "DAIN_PORT": str(port),
        "DAIN_LOG_LEVEL": "error",
        "DAIN_MIN_FREE_BYTES": "1",
    }

    def start() -> subprocess.Popen[bytes]:
        api = subprocess.Popen([sys.executable, "-m", "service.api.app"], env=os.environ | given)
        until(lambda: _answers(url))
        return api

    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=30, verify=False) as http:
        first = start()
        path = begin(http, len(video))
        with half_a_patch(url, path, len(video), video[: 35 * 2**20]):
            until(lambda: offset_of(http, path) >= 2 * tus.PART_BYTES)
            first.kill()
            first.wait()
        second = start()
        try:
            offset = offset_of(http, path)
            assert offset >= 2 * tus.PART_BYTES
            assert patch(http, path, offset, video[offset:]).status_code == 204
            response = http.post("/jobs", params={"upload": path.rpartition("/")[2]})
            assert response.status_code == 202, response.text
            assert jobs.get(response.json()["id"]).source_sha256 == hashlib.sha256(video).hexdigest()
        finally:
            second.terminate()
            second.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", verify=False).is_success
    except httpx.TransportError:
        return False


class TestFullDisk:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"min_free_bytes": 2**60})

    def test_is_said_before_a_byte_is_sent(self, http: httpx.Client) -> None:
        response = http.post("/uploads", headers=TUS | {"Upload-Length": "5"})
        assert_problem(response, 507, "insufficient-storage")


def test_the_janitor_removes_what_has_expired(
    http: httpx.Client, redis: Redis, store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch(http, begin(http, 10), 0, b"12345")
    janitor = Janitor(jobs, Queue(redis), Workers(redis, ttl_seconds=15), store, record_ttl_seconds=1e9)
    janitor.remove_incoming()
    assert len(list(store.keys("incoming/"))) == 1
    monkeypatch.setattr(incoming, "INCOMING_SECONDS", -1)
    time.sleep(0.01)
    janitor.remove_incoming()
    assert list(store.keys("incoming/")) == []
