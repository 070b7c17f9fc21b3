"""GET /jobs/{id}/result: the finished file, ranges of it, and why there is none."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import httpx
import pytest
from fastapi.responses import FileResponse

from service.api.routes import results
from service.jobs.machine import Jobs
from service.jobs.names import PLAN
from service.jobs.problems import Problem
from service.jobs.records import Job, State
from service.settings import Settings
from service.store import Store, StoreUnavailable, blocks
from service.store.local import LocalStore
from service.store.s3 import S3Store
from tests import s3
from tests.api import RESULT, assert_problem

SHA256 = hashlib.sha256(RESULT).hexdigest()
ETAG = f'"{SHA256}"'


def test_the_whole_result(http: httpx.Client, finished: Job) -> None:
    response = http.get(f"/jobs/{finished.id}/result")
    assert response.status_code == 200
    assert response.content == RESULT
    assert response.headers["ETag"] == ETAG
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Type"] == "video/mp4"
    assert response.headers["Content-Disposition"] == "attachment; filename*=utf-8''caf%C3%A9-2x.mp4"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_its_head(http: httpx.Client, finished: Job) -> None:
    response = http.head(f"/jobs/{finished.id}/result")
    assert response.status_code == 200
    assert response.content == b""
    assert response.headers["Content-Length"] == str(len(RESULT))
    assert response.headers["ETag"] == ETAG


@pytest.mark.parametrize(
    ("ranges", "part"),
    [
        ("0-0", slice(0, 1)),
        ("100-199", slice(100, 200)),
        ("299990-", slice(299990, None)),
        ("-5", slice(-5, None)),
    ],
)
def test_a_range(ranges: str, part: slice, http: httpx.Client, finished: Job) -> None:
    response = http.get(f"/jobs/{finished.id}/result", headers={"Range": f"bytes={ranges}"})
    assert response.status_code == 206
    assert response.content == RESULT[part]
    first, stop, _ = part.indices(len(RESULT))
    assert response.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(RESULT)}"
    assert response.headers["ETag"] == ETAG


def test_several_ranges(http: httpx.Client, finished: Job) -> None:
    response = http.get(f"/jobs/{finished.id}/result", headers={"Range": "bytes=0-9,500-509"})
    assert response.status_code == 206
    assert RESULT[:10] in response.content and RESULT[500:510] in response.content


@pytest.mark.parametrize("ranges", ["300000-", "300000-300001,400000-", "-0", f"{'9' * 4000}-"])
def test_a_range_outside_the_file(ranges: str, http: httpx.Client, finished: Job) -> None:
    response = http.get(f"/jobs/{finished.id}/result", headers={"Range": f"bytes={ranges}"})
    problem = assert_problem(response, 416, "range-not-satisfiable")
    assert "300000 bytes" in problem["detail"]
    assert response.headers["Content-Range"] == "bytes */300000"


def test_what_lies_outside_is_left_out(http: httpx.Client, finished: Job) -> None:
    headers = {"Range": "bytes=0-9, 300000-300009"}
    response = http.get(f"/jobs/{finished.id}/result", headers=headers)
    assert (response.status_code, response.content) == (206, RESULT[:10])


@pytest.mark.parametrize(
    "ranges",
    [
        "1_0-2_0",
        "+1-+5",
        "5-2",
        "x-y",
        "",
        ",",
        "-",
        "1-2-3",
        "1-2,x",
        "--5",
        "0x1-0x2",
        "1 - 2",
        f"0-{'9' * 5000}",
    ],
)
def test_a_malformed_range(ranges: str, http: httpx.Client, finished: Job) -> None:
    response = http.get(f"/jobs/{finished.id}/result", headers={"Range": f"bytes={ranges}"})
    assert "bytes=0-499" in assert_problem(response, 400, "invalid-range")["detail"]


@pytest.mark.parametrize("header", ["frames=0-9", "0-9", ""])
def test_a_range_of_something_else_is_ignored(header: str, http: httpx.Client, finished: Job) -> None:
    response = http.get(f"/jobs/{finished.id}/result", headers={"Range": header})
    assert (response.status_code, response.content) == (200, RESULT)


@pytest.mark.parametrize(("tag", "status"), [(ETAG, 206), ('"another"', 200), (f"W/{ETAG}", 200)])
def test_a_range_of_the_same_file_only(tag: str, status: int, http: httpx.Client, finished: Job) -> None:
    headers = {"Range": "bytes=0-9", "If-Range": tag}
    response = http.get(f"/jobs/{finished.id}/result", headers=headers)
    assert response.status_code == status
    assert response.content == (RESULT[:10] if status == 206 else RESULT)
    response = http.get(f"/jobs/{finished.id}/result", headers=headers | {"Range": "bytes=300000-"})
    assert response.status_code == (416 if status == 206 else 200)


@pytest.mark.parametrize(
    ("header", "status"),
    [(ETAG, 304), ("*", 304), (f'"a", W/{ETAG}', 304), ('"a"', 200), (SHA256, 200)],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_none_match(method: str, header: str, status: int, http: httpx.Client, finished: Job) -> None:
    response = http.request(method, f"/jobs/{finished.id}/result", headers={"If-None-Match": header})
    assert response.status_code == status
    assert response.headers["ETag"] == ETAG
    if status == 304:
        assert response.content == b""


def test_not_finished(http: httpx.Client, job: Job, jobs: Jobs) -> None:
    response = http.get(f"/jobs/{job.id}/result")
    assert_problem(response, 409, "job-not-finished")
    assert int(response.headers["Retry-After"]) > 0
    jobs.claim(job.id, PLAN, "worker")
    problem = assert_problem(http.get(f"/jobs/{job.id}/result"), 409, "job-not-finished")
    assert "running" in problem["detail"]


def test_failed(http: httpx.Client, job: Job, jobs: Jobs) -> None:
    jobs.finish(job.id, State.FAILED, error=Problem("damaged-video", "Frame 7 cannot be decoded."))
    problem = assert_problem(http.get(f"/jobs/{job.id}/result"), 409, "job-failed")
    assert "Frame 7 cannot be decoded." in problem["detail"]
    assert problem["error"] == http.get(f"/jobs/{job.id}").json()["error"]
    assert problem["error"]["type"] == "urn:dain:problem:damaged-video"


def test_cancelled(http: httpx.Client, job: Job, jobs: Jobs) -> None:
    jobs.cancel(job.id)
    assert_problem(http.get(f"/jobs/{job.id}/result"), 409, "job-cancelled")


def test_expired(http: httpx.Client, finished: Job, jobs: Jobs) -> None:
    jobs.mark_expired(finished.id)
    assert_problem(http.get(f"/jobs/{finished.id}/result"), 410, "result-expired")
    assert "result" not in http.get(f"/jobs/{finished.id}").json()["links"]


def test_gone_from_the_store(http: httpx.Client, finished: Job, store: Store) -> None:
    store.delete(f"results/{finished.id}")
    assert_problem(http.get(f"/jobs/{finished.id}/result"), 410, "result-expired")


@pytest.mark.parametrize("damage", [RESULT[:-1], RESULT[:-1] + b"x"], ids=["truncated", "overwritten"])
def test_a_result_that_the_store_damaged_is_not_served(
    damage: bytes, http: httpx.Client, finished: Job, store: Store
) -> None:
    assert http.get(f"/jobs/{finished.id}/result").content == RESULT
    assert finished.output is not None
    with store.fetch(finished.output.key) as path:
        path.write_bytes(damage)
    response = http.get(f"/jobs/{finished.id}/result")
    problem = assert_problem(response, 410, "result-damaged")
    assert finished.output.key in problem["detail"] and str(path) not in problem["detail"]
    assert "ETag" not in response.headers


def test_a_result_that_is_removed_meanwhile_arrives_whole(
    http: httpx.Client, finished: Job, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a DELETE comes between the look at the store and the sending."""

    def remove_first(*arguments: Any, **named: Any) -> FileResponse:
        store.delete(f"results/{finished.id}/")
        return FileResponse(*arguments, **named)

    monkeypatch.setattr(results, "FileResponse", remove_first)
    for headers, part in (({}, RESULT), ({"Range": "bytes=5-9"}, RESULT[5:10])):
        response = http.get(f"/jobs/{finished.id}/result", headers=headers)
        assert (response.content if response.is_success else response.status_code) in (part, 410)
    assert http.get(f"/jobs/{finished.id}/result").status_code == 410


def test_fetching_and_removing_at_once(
    http: httpx.Client, make_job: Callable[[], Job], finish: Callable[[str, bytes], None]
) -> None:
    for _ in range(20):
        job = make_job()
        finish(job.id, RESULT)
        with ThreadPoolExecutor(3) as pool:
            fetched = [pool.submit(http.get, f"/jobs/{job.id}/result") for _ in range(2)]
            pool.submit(http.delete, f"/jobs/{job.id}").result()
        for response in (each.result() for each in fetched):
            assert response.status_code in (200, 404, 410)
            assert response.status_code != 200 or response.content == RESULT


def test_a_store_that_hangs_holds_up_nobody_who_asks_for_a_job(
    http: httpx.Client, finished: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files wait for the store in threads of their own."""
    waiting, over = threading.Semaphore(0), threading.Event()

    def hang(*_: object, **__: object) -> NoReturn:
        waiting.release()
        over.wait(60)
        raise StoreUnavailable("The store does not answer.")

    monkeypatch.setattr(LocalStore, "fetch", hang)
    with ThreadPoolExecutor(45) as pool:
        sent = [pool.submit(http.get, f"/jobs/{finished.id}/result") for _ in range(45)]
        try:
            for _ in range(40):
                assert waiting.acquire(timeout=30)
            with httpx.Client(base_url=http.base_url, timeout=30, verify=False) as other:
                assert other.get(f"/jobs/{finished.id}").status_code == 200
        finally:
            over.set()
        assert {response.result().status_code for response in sent} == {503}


FRAMES = b'{"frames": "snsh", "start": 0.0, "rate": 48.0, "times": null}'


def test_which_frames_are_new(
    http: httpx.Client, job: Job, jobs: Jobs, store: Store, finish: Callable[..., None]
) -> None:
    path = f"/jobs/{job.id}/result/frames"
    assert_problem(http.get(path), 409, "job-not-finished")
    finish(job.id, RESULT, FRAMES)
    assert http.get(f"/jobs/{job.id}").json()["links"]["frames"] == path
    response = http.get(path)
    assert (response.status_code, response.content) == (200, FRAMES)
    assert response.headers["Content-Type"] == "application/json"
    known = {"If-None-Match": response.headers["ETag"]}
    assert http.get(path, headers=known).status_code == 304
    with store.fetch(f"results/{job.id}/attempt.mp4.frames") as stored:
        stored.write_bytes(FRAMES[:-1])
    assert_problem(http.get(path), 410, "result-damaged")
    jobs.mark_expired(job.id)
    assert_problem(http.get(path), 410, "result-expired")


def test_a_result_of_an_earlier_release_does_not_say_which_frames_are_new(
    http: httpx.Client, finished: Job
) -> None:
    assert_problem(http.get(f"/jobs/{finished.id}/result/frames"), 404, "frames-unknown")
    assert "frames" not in http.get(f"/jobs/{finished.id}").json()["links"]


class TestLarge:
    """A result of five blocks, of which each is checked before it leaves."""

    @pytest.fixture(params=["local", "s3"])
    def settings(
        self, request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> Settings:
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**16)
        for kind in (LocalStore, S3Store):
            monkeypatch.setattr(kind, "whole_bytes", 2**17)
        if request.param == "local":
            return settings
        bucket: s3.Bucket = request.getfixturevalue("bucket")
        return settings.model_copy(update={"store_url": bucket.url})

    @pytest.fixture
    def overwrite(self, request: pytest.FixtureRequest, settings: Settings) -> Callable[[str, bytes], object]:
        """Changes a stored file behind the service's back."""
        if settings.store_url.startswith("s3:"):
            return request.getfixturevalue("bucket").overwrite
        return lambda key, data: (settings.state_dir / "store" / key).write_bytes(data)

    @pytest.mark.parametrize(
        ("ranges", "status", "part"),
        [
            (None, 200, slice(None)),
            ("bytes=0-0", 206, slice(0, 1)),
            ("bytes=65000-140000", 206, slice(65000, 140001)),
            ("bytes=65536-131071", 206, slice(65536, 131072)),
            ("bytes=-5", 206, slice(-5, None)),
            ("bytes=0-4,100-104", 200, slice(None)),
        ],
    )
    def test_it_is_sent_whole_or_in_part(
        self, ranges: str | None, status: int, part: slice, http: httpx.Client, finished: Job
    ) -> None:
        response = http.get(f"/jobs/{finished.id}/result", headers={"Range": ranges} if ranges else {})
        assert response.status_code == status
        assert response.content == RESULT[part]
        assert response.headers["ETag"] == ETAG and response.headers["Accept-Ranges"] == "bytes"
        assert int(response.headers["Content-Length"]) == len(RESULT[part])
        first, stop, _ = part.indices(len(RESULT))
        expected = f"bytes {first}-{stop - 1}/{len(RESULT)}" if status == 206 else None
        assert response.headers.get("Content-Range") == expected
        assert response.headers["Content-Disposition"] == "attachment; filename*=utf-8''caf%C3%A9-2x.mp4"

    def test_its_head(self, http: httpx.Client, finished: Job) -> None:
        response = http.head(f"/jobs/{finished.id}/result")
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["Content-Length"]) == len(RESULT)

    @pytest.mark.parametrize("damage", [RESULT[:-1], b"x" + RESULT[1:]], ids=["truncated", "overwritten"])
    def test_damage_is_a_410(
        self, damage: bytes, http: httpx.Client, finished: Job, overwrite: Callable[[str, bytes], object]
    ) -> None:
        assert finished.output is not None
        overwrite(finished.output.key, damage)
        problem = assert_problem(http.get(f"/jobs/{finished.id}/result"), 410, "result-damaged")
        assert finished.output.key in problem["detail"]

    def test_no_damaged_byte_leaves(
        self, http: httpx.Client, finished: Job, overwrite: Callable[[str, bytes], object]
    ) -> None:
        """The connection is cut before it, and whoever asks for the rest is told why."""
        assert finished.output is not None
        overwrite(finished.output.key, RESULT[:200_000] + b"x" + RESULT[200_001:])
        received = b""
        with (
            pytest.raises(httpx.RemoteProtocolError),
            http.stream("GET", f"/jobs/{finished.id}/result") as response,
        ):
            for piece in response.iter_bytes():
                received += piece
        assert received == RESULT[: 3 * 2**16]
        headers = {"Range": f"bytes={len(received)}-"}
        assert_problem(http.get(f"/jobs/{finished.id}/result", headers=headers), 410, "result-damaged")

    def test_another_file_with_its_own_hashes_is_damage(
        self, http: httpx.Client, finished: Job, overwrite: Callable[[str, bytes], object]
    ) -> None:
        assert finished.output is not None
        other = bytes(len(RESULT))
        overwrite(finished.output.key, other)
        starts = range(0, len(other), 2**16)
        hashes = b"".join(hashlib.sha256(other[start : start + 2**16]).digest() for start in starts)
        overwrite(f"{finished.output.key}.blocks", hashes)
        assert_problem(http.get(f"/jobs/{finished.id}/result"), 410, "result-damaged")

    def test_gone_from_the_store(self, http: httpx.Client, finished: Job, store: Store) -> None:
        store.delete(f"results/{finished.id}/")
        assert_problem(http.get(f"/jobs/{finished.id}/result"), 410, "result-expired")
        assert_problem(
            http.get(f"/jobs/{finished.id}/result", headers={"Range": "bytes=0-1"}), 410, "result-expired"
        )


class TestRedirect:
    """The store sends results itself."""

    @pytest.fixture
    def settings(self, settings: Settings, bucket: s3.Bucket) -> Settings:
        return settings.model_copy(update={"store_url": bucket.url, "store_redirect": True})

    def test_the_store_sends_it(self, http: httpx.Client, finished: Job, bucket: s3.Bucket) -> None:
        answer = http.get(f"/jobs/{finished.id}/result")
        assert answer.status_code == 307 and answer.headers["Cache-Control"] == "no-store"
        url = answer.headers["Location"]
        assert url.startswith(f"{bucket.endpoint}/{bucket.name}/dain/results/") and s3.SECRET_KEY not in url
        response = httpx.get(url, headers={"Range": "bytes=5-9"}, trust_env=False)
        assert (response.status_code, response.content) == (206, RESULT[5:10])
        assert response.headers["Content-Type"] == "video/mp4"
        assert response.headers["Content-Disposition"] == "attachment; filename*=utf-8''caf%C3%A9-2x.mp4"
        assert httpx.get(url.replace("/results/", "/uploads/"), trust_env=False).status_code == 403

    def test_not_without_need(self, http: httpx.Client, finished: Job) -> None:
        unchanged = http.get(f"/jobs/{finished.id}/result", headers={"If-None-Match": ETAG})
        assert unchanged.status_code == 304
        head = http.head(f"/jobs/{finished.id}/result")
        assert (head.status_code, head.headers["ETag"]) == (200, ETAG)

    @pytest.mark.parametrize(("destination", "status"), [("video", 206), ("image", 206), ("empty", 307)])
    def test_a_page_shows_it_from_the_service(
        self, destination: str, status: int, http: httpx.Client, finished: Job
    ) -> None:
        headers = {"Sec-Fetch-Dest": destination, "Range": "bytes=0-9"}
        assert http.get(f"/jobs/{finished.id}/result", headers=headers).status_code == status

    @pytest.mark.parametrize("damage", [RESULT[:-1], None], ids=["truncated", "missing"])
    def test_damage_is_a_410(
        self, damage: bytes | None, http: httpx.Client, finished: Job, bucket: s3.Bucket
    ) -> None:
        assert finished.output is not None
        if damage is None:
            bucket.remove(finished.output.key)
        else:
            bucket.overwrite(finished.output.key, damage)
        assert http.get(f"/jobs/{finished.id}/result").status_code == 410


class TestRedirectOfAFolder:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"store_redirect": True})

    def test_the_api_sends_it(self, http: httpx.Client, finished: Job) -> None:
        assert http.get(f"/jobs/{finished.id}/result").content == RESULT
