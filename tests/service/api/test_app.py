"""What belongs to no one route: errors, readiness, metrics, the description of the API."""

from __future__ import annotations

import html
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from service import __version__
from service.api import feed
from service.api import service as held
from service.jobs.keys import FileKeys
from service.jobs.machine import Jobs
from service.jobs.names import PLAN
from service.jobs.options import Options
from service.jobs.problems import PROBLEMS
from service.jobs.records import DEFAULT_OWNER, Job
from service.jobs.workers import WorkerRecord, Workers
from service.settings import Settings
from service.store import Store
from tests import s3
from tests.api import assert_problem, serve, until

POST = {"content": b"x", "headers": {"Content-Type": "video/mp4", "Idempotency-Key": "k"}}


def record(ready: bool) -> WorkerRecord:
    return WorkerRecord(
        name="ann",
        host="here",
        pid=1,
        device="cuda:0",
        device_name="NVIDIA H100",
        backend="cuda",
        model="dain",
        precision="fp16",
        ready=ready,
        vram_used_bytes=5,
        vram_total_bytes=80,
        frames_per_second=12.5,
        celsius={"gpu-thermal": 83.5},
        throttled_by=["heat"],
        power_mode="15W",
        started_at=time.time(),
    )


@pytest.fixture
def workers(redis: Redis, settings: Settings) -> Workers:
    return Workers(redis, ttl_seconds=settings.worker_ttl_seconds)


# -- health ---------------------------------------------------------------------------------------


def test_alive(http: httpx.Client) -> None:
    assert http.get("/healthz").json()["status"] == "ok"


def test_alive_while_redis_hangs_and_every_thread_waits_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "REDIS_REPLY_SECONDS", 60)
    with socket.create_server(("127.0.0.1", 0), backlog=200) as hung:  # which says nothing
        settings = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{hung.getsockname()[1]}"})
        with (
            serve(settings) as url,
            ThreadPoolExecutor(60) as pool,
            httpx.Client(timeout=60, verify=False) as http,
        ):
            asked = [pool.submit(httpx.get, f"{url}/jobs", verify=False, timeout=60) for _ in range(60)]
            until(lambda: psutil.Process().num_threads() > 100)  # the pool's, and the API's forty
            assert http.get(f"{url}/healthz").status_code == 200
            assert not any(each.done() for each in asked)
            hung.close()
            assert {each.result().status_code for each in asked} == {503}


def test_ready_only_with_a_warm_worker(http: httpx.Client, workers: Workers) -> None:
    problem = assert_problem(http.get("/readyz"), 503, "not-ready")
    assert problem["checks"] == {"redis": "ok", "store": "ok", "keys": "ok", "workers": "none is running"}
    workers.heartbeat(record(ready=False))
    assert "warming up" in assert_problem(http.get("/readyz"), 503, "not-ready")["detail"]
    workers.heartbeat(record(ready=True))
    response = http.get("/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "ready"
    assert http.get("/workers").json()[0]["vram_used_bytes"] == 5
    workers.leave("ann")
    assert http.get("/readyz").status_code == 503
    assert http.get("/workers").json() == []


def test_not_ready_when_the_store_cannot_be_written_to(http: httpx.Client, store: Store) -> None:
    (store.root / "scratch").rmdir()
    problem = assert_problem(http.get("/readyz"), 503, "not-ready")
    assert problem["checks"]["store"].startswith("cannot be written to")


class TestKeysInAFile:
    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        FileKeys(tmp_path / "keys.json").create()
        return settings.model_copy(update={"keys_file": tmp_path / "keys.json"})

    def test_not_ready_when_keys_cannot_be_read(
        self, http: httpx.Client, workers: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        workers.heartbeat(record(ready=True))
        assert http.get("/readyz").json()["checks"]["keys"] == "ok"
        (tmp_path / "keys.json").rename(tmp_path / "away.json")
        problem = assert_problem(http.get("/readyz"), 503, "not-ready")
        assert problem["checks"]["keys"].startswith("cannot be read")
        assert "keys.json" not in problem["detail"]
        assert "There is no file of keys" in caplog.text and "keys.json" in caplog.text
        assert_problem(http.get("/jobs"), 503, "keys-unreadable")


class TestFullDisk:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"min_free_bytes": 2**60})

    def test_not_ready(self, http: httpx.Client) -> None:
        problem = assert_problem(http.get("/readyz"), 503, "not-ready")
        assert "bytes free" in problem["checks"]["store"]


# -- errors ---------------------------------------------------------------------------------------


class TestRedisDown:
    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        return settings.model_copy(update={"redis_url": f"unix://{tmp_path}/none.sock"})

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/jobs"),
            ("GET", f"/jobs/{'0' * 28}"),
            ("POST", "/jobs"),
            ("GET", "/workers"),
            ("GET", "/metrics"),
        ],
    )
    def test_is_a_503_that_says_when_to_come_back(
        self, method: str, path: str, http: httpx.Client, store: Store
    ) -> None:
        response = http.request(method, path, **(POST if method == "POST" else {}))
        assert_problem(response, 503, "redis-unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert [p for p in store.root.rglob("*") if p.is_file()] == []

    def test_health_tells_the_two_apart(self, http: httpx.Client) -> None:
        assert http.get("/healthz").status_code == 200
        problem = assert_problem(http.get("/readyz"), 503, "not-ready")
        assert "does not answer" in problem["checks"]["redis"]
        assert "unknown" in problem["checks"]["keys"] and "unknown" in problem["checks"]["workers"]


class TestRedisHangs:
    """It takes connections and says nothing, as a stopped process does."""

    @pytest.fixture
    def settings(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
        monkeypatch.setattr(held, "REDIS_REPLY_SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            yield settings.model_copy(update={"redis_url": url})

    def test_is_a_503_too(self, http: httpx.Client) -> None:
        assert_problem(http.get("/jobs"), 503, "redis-unavailable")
        problem = assert_problem(http.get("/readyz"), 503, "not-ready")
        assert problem["checks"]["redis"] == "does not answer (TimeoutError)"


class TestStoreIsAway:
    @pytest.fixture
    def settings(self, settings: Settings, bucket: s3.Bucket, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
        return settings.model_copy(update={"store_url": bucket.url_at("http://127.0.0.1:1")})

    def test_is_a_503_that_says_when_to_come_back(
        self, http: httpx.Client, clip: Path, redis: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = http.post("/jobs", content=clip.read_bytes(), headers={"Content-Type": "video/mp4"})
        problem = assert_problem(response, 503, "store-unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert "127.0.0.1:1" not in problem["detail"] and "127.0.0.1:1" in caplog.text
        assert http.get("/jobs").json()["jobs"] == []

    def test_readiness_says_why(self, http: httpx.Client) -> None:
        problem = assert_problem(http.get("/readyz"), 503, "not-ready")
        assert "127.0.0.1:1 cannot be used" in problem["checks"]["store"]


class TestStoreInS3:
    @pytest.fixture
    def settings(self, settings: Settings, bucket: s3.Bucket) -> Settings:
        return settings.model_copy(update={"store_url": bucket.url})

    def test_an_upload_comes_into_the_bucket(self, http: httpx.Client, clip: Path, bucket: s3.Bucket) -> None:
        job = http.post("/jobs", content=clip.read_bytes(), headers={"Content-Type": "video/mp4"}).json()
        assert bucket.keys() == [f"uploads/{job['id']}"]


class TestBug:
    @pytest.fixture
    def http(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
        def broken(self: Jobs, job_id: str, **_: object) -> None:
            raise ZeroDivisionError("the secret of line 42")

        monkeypatch.setattr(Jobs, "get", broken)
        with serve(settings) as url, httpx.Client(base_url=url, timeout=60, verify=False) as http:
            yield http

    def test_shows_nothing_of_its_inside(self, http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
        response = http.get(f"/jobs/{'0' * 28}")
        problem = assert_problem(response, 500, "internal-error")
        assert "secret" not in response.text and "Traceback" not in response.text
        assert problem["error_id"] in problem["detail"]
        assert problem["error_id"] in caplog.text and "the secret of line 42" in caplog.text
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    assert_problem(http.get("/films"), 404, "not-found")
    for path, methods in (
        ("/jobs", "GET, POST"),
        (f"/jobs/{'0' * 28}", "DELETE, GET"),
        (f"/jobs/{'0' * 28}/result", "GET, HEAD"),
    ):
        response = http.put(path)
        assert_problem(response, 405, "method-not-allowed")
        assert response.headers["Allow"] == methods


def test_a_slash_too_many_is_no_redirect_to_a_host_of_the_callers_choice(http: httpx.Client) -> None:
    assert_problem(http.get("/jobs/"), 404, "not-found")


def test_every_slug_has_a_status_and_a_title() -> None:
    for slug, (status, title) in PROBLEMS.items():
        assert slug == slug.lower().replace(" ", "-") and 400 <= status < 600 and title[0].isupper()


def test_every_slug_that_the_worker_uses_is_in_the_table() -> None:
    sources = [path.read_text() for path in (Path(__file__).parents[3] / "worker").rglob("*.py")]
    used = {slug for text in sources for slug in re.findall(r'MediaError\(\s*"([a-z-]+)"', text)}
    assert used and used <= PROBLEMS.keys()


# -- metrics and description ----------------------------------------------------------------------


def samples(http: httpx.Client) -> dict[tuple[str, ...], float]:
    text = http.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(http: httpx.Client, clip: Path, workers: Workers, jobs: Jobs) -> None:
    workers.heartbeat(record(ready=True))
    posted = http.post("/jobs", content=clip.read_bytes(), headers={"Content-Type": "video/mp4"})
    job_id = posted.json()["id"]
    http.get(f"/jobs/{job_id}")
    http.get("/no/such/path")
    seen = samples(http)
    assert seen["dain_jobs", "queued"] == 1
    assert seen["dain_queue_depth",] == 1
    assert 0 < seen["dain_queue_oldest_age_seconds",] < 60
    assert seen["dain_jobs_accepted_total",] == 1
    assert seen["dain_workers", "true"] == 1
    assert seen["dain_worker_vram_used_bytes", "cuda:0", "ann"] == 5
    assert seen["dain_worker_frames_per_second", "cuda:0", "ann"] == 12.5
    assert seen["dain_worker_temperature_celsius", "cuda:0", "gpu-thermal", "ann"] == 83.5
    assert seen["dain_worker_throttled", "cuda:0", "heat", "ann"] == 1
    assert seen["dain_worker_throttled", "cuda:0", "over-current", "ann"] == 0
    assert seen["dain_worker_power_mode_info", "cuda:0", "15W", "ann"] == 1
    assert seen["dain_http_request_duration_seconds_count", "POST", "/jobs", "202"] == 1
    assert seen["dain_http_request_duration_seconds_count", "GET", "/jobs/{job_id}", "200"] == 1
    assert not [name for name in seen if job_id in name]
    jobs.cancel(job_id)
    assert samples(http)["dain_jobs_finished_total", "cancelled"] == 1


def test_metrics_tell_what_fills_up_and_what_is_behind(http: httpx.Client, clip: Path, jobs: Jobs) -> None:
    http.post("/jobs?priority=high", content=clip.read_bytes())
    jobs.record_stored({"results": 7})
    job = jobs.page(DEFAULT_OWNER)[0][0]
    claim = jobs.claim(job.id, PLAN, "ann")
    assert jobs.complete(claim, job={"segments_total": 1}, add={"replans": 2, "recomputed_frames": 3})
    http.post("/jobs?priority=low", content=clip.read_bytes())
    seen = samples(http)
    assert [seen["dain_queue_jobs", priority] for priority in ("low", "normal", "high")] == [1, 0, 0]
    assert 0 < seen["dain_queue_age_seconds", "low"] < 60 and seen["dain_queue_age_seconds", "high"] == 0
    assert (seen["dain_replans_total",], seen["dain_recomputed_frames_total",]) == (2, 3)
    assert seen["dain_store_bytes", "results"] == 7
    assert seen["dain_store_free_bytes",] > seen["dain_store_min_free_bytes",] > 0
    assert seen["dain_redis_memory_bytes",] > 0 == seen["dain_redis_memory_limit_bytes",]
    assert seen["dain_build_info", platform.python_version(), __version__] == 1


def test_metrics_tell_what_a_worker_is_and_takes(http: httpx.Client, workers: Workers) -> None:
    workers.heartbeat(record(ready=True).model_copy(update={"watts": 310.5, "utilisation": 0.75}))
    workers.heartbeat(record(ready=True).model_copy(update={"name": "without a sensor"}))
    text = http.get("/metrics").text
    assert 'dain_worker_watts{device="cuda:0",worker="ann"} 310.5' in text
    assert 'dain_worker_utilisation{device="cuda:0",worker="ann"} 0.75' in text
    assert "dain_worker_watts{" in text and 'dain_worker_watts{device="cuda:0",worker="without' not in text
    assert re.search(r'dain_worker_info\{.*model="dain".*worker="ann"\} 1.0', text)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_page_do_what_they_say(
    http: httpx.Client, clip: Path, finished: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "FOLLOWED_SECONDS", 0.0)
    shutil.copy(clip, tmp_path / "clip.mp4")
    page = http.get("/docs").text
    calls = re.findall(r"<h2><code>(.*?)</code></h2>.*?<pre>(.*?)</pre>", page, re.DOTALL)
    upload, codes = "", {}
    for call, example in sorted(calls, key=lambda each: each[0] == "DELETE /jobs/{job_id}"):
        command = html.unescape(example).replace("/uploads/ID", upload).replace("/ID", f"/{finished.id}")
        done = subprocess.run(
            ["sh", "-c", f"{command} -s -w '\\n%{{http_code}}'"],
            cwd=tmp_path,
            env=os.environ | {"DAIN_TOKEN": "dain_", "no_proxy": "*"},
            capture_output=True,
            timeout=30,
        )
        codes[call] = done.stdout.decode(errors="replace").split()[-1]
        if call == "POST /uploads":
            [upload] = re.findall(r"(?im)^location: (/uploads/\w+)", done.stdout.decode())
        assert ("$DAIN_TOKEN" in command) == (call not in ("GET /healthz", "GET /readyz")), call
    assert {call: code for call, code in codes.items() if code != "200"} == {
        "POST /jobs": "202",
        "POST /uploads": "201",
        "OPTIONS /uploads": "204",
        "PATCH /uploads/{upload_id}": "204",
        "DELETE /uploads/{upload_id}": "204",
        "DELETE /jobs/{job_id}": "204",
        "GET /jobs/{job_id}/preview": "404",  # without a worker, as the next two
        "GET /jobs/{job_id}/result/frames": "404",
        "GET /readyz": "503",
    }


def test_a_cancel_never_removes(http: httpx.Client, clip: Path, finished: Job) -> None:
    live = http.post("/jobs", files={"file": clip.read_bytes()}).json()["id"]
    for job_id, status in ((live, "cancelled"), (live, "cancelled"), (finished.id, "succeeded")):
        answer = http.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert_problem(http.post(f"/jobs/{'0' * 28}/cancel"), 404, "job-not-found")


def test_the_page_that_describes_it_needs_no_other_host(http: httpx.Client) -> None:
    response = http.get("/docs")
    assert response.status_code == 200 and response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "<script" not in response.text and not re.search(r"(src|href)=.?(https?:)?//", response.text)
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in response.text
    for words in (*Options.model_fields, "Idempotency-Key", "The upload is too large", "0 (lossless) to 51"):
        assert words in response.text
    assert http.get("/redoc").status_code == 404
