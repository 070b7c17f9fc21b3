"""POST /uploads: a large video goes to the bucket itself, and POST /jobs makes a job of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.jobs.incoming import Incoming, Upload, incoming_key
from service.jobs.machine import Jobs
from service.jobs.names import new_job_id
from service.settings import Settings
from tests import s3
from tests.api import assert_problem

NOTHING = "0" * 28


@pytest.fixture
def settings(settings: Settings, bucket: s3.Bucket) -> Settings:
    return settings.model_copy(update={"store_url": bucket.url})


@pytest.fixture
def send(http: httpx.Client) -> Callable[[bytes], str]:
    """Sends a video to the bucket; returns the id of the upload."""

    def send_one(video: bytes) -> str:
        upload = begin(http, len(video))
        assert httpx.put(upload["url"], content=video, trust_env=False).status_code == 200
        return str(upload["id"])

    return send_one


def begin(http: httpx.Client, size: int) -> dict[str, Any]:
    response = http.post("/uploads", params={"size_bytes": size})
    assert response.status_code == 201
    upload: dict[str, Any] = response.json()
    return upload


def test_a_job_of_it(
    http: httpx.Client, clip: Path, send: Callable[[bytes], str], bucket: s3.Bucket, jobs: Jobs
) -> None:
    upload_id = send(clip.read_bytes())
    assert bucket.keys() == [f"incoming/{upload_id}"]
    query = {"upload": upload_id, "factor": "3", "filename": "holiday.mp4"}
    response = http.post("/jobs", params=query)
    assert response.status_code == 202, response.text
    job = response.json()
    assert (job["filename"], job["options"]["factor"], job["input"]["frames"]) == ("holiday.mp4", 3, 12)
    recorded = jobs.get(job["id"])
    assert recorded.source_sha256 == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert set(bucket.keys()) == {f"incoming/{upload_id}", recorded.source}


def test_it_is_taken_as_often_as_it_is_asked_for(
    http: httpx.Client, clip: Path, send: Callable[[bytes], str]
) -> None:
    query = {"upload": send(clip.read_bytes())}
    first, again = (
        http.post("/jobs", params=query, headers={"Idempotency-Key": '"one"'}).json() for _ in range(2)
    )
    assert first["id"] == again["id"]
    assert http.post("/jobs", params=query).json()["id"] != first["id"]


def test_the_bucket_takes_the_announced_size_alone(http: httpx.Client, clip: Path, bucket: s3.Bucket) -> None:
    video = clip.read_bytes()
    upload = begin(http, len(video) - 1)
    assert upload["headers"] == {"Content-Length": str(len(video) - 1)}
    assert httpx.put(upload["url"], content=video, trust_env=False).status_code == 403
    assert bucket.keys() == []


def test_one_that_is_sent_again_is_what_counts(http: httpx.Client, clip: Path, bucket: s3.Bucket) -> None:
    """Also where its first form has the same size and was looked into."""
    video = clip.read_bytes()
    upload = begin(http, len(video))
    for content, status in ((bytes(len(video)), 422), (video, 202)):
        httpx.put(upload["url"], content=content, trust_env=False).raise_for_status()
        assert http.post("/jobs", params={"upload": upload["id"]}).status_code == status


@pytest.mark.parametrize("upload_id", [NOTHING, "../../etc/passwd", "", "x" * 5000])
def test_there_is_no_such_upload(upload_id: str, http: httpx.Client) -> None:
    assert_problem(http.post("/jobs", params={"upload": upload_id}), 404, "upload-not-found")


def test_an_upload_of_someone_else(http: httpx.Client, redis: Any) -> None:
    upload_id = new_job_id()
    Incoming(redis).add(upload_id, Upload(owner="someone-else", size_bytes=5))
    assert_problem(http.post("/jobs", params={"upload": upload_id}), 404, "upload-not-found")


def test_nothing_has_arrived(http: httpx.Client) -> None:
    problem = assert_problem(
        http.post("/jobs", params={"upload": begin(http, 5)["id"]}), 409, "upload-missing"
    )
    assert "send it first" in problem["detail"]


def test_another_size_has_arrived(http: httpx.Client, bucket: s3.Bucket) -> None:
    """As where a server does not look at what it signed for."""
    upload_id = begin(http, 5)["id"]
    bucket.client.put_object(Bucket=bucket.name, Key=f"dain/{incoming_key(upload_id)}", Body=b"123456")
    problem = assert_problem(http.post("/jobs", params={"upload": upload_id}), 400, "invalid-upload")
    assert "6 bytes instead of 5" in problem["detail"]


def test_what_is_no_video_makes_no_job(
    http: httpx.Client, send: Callable[[bytes], str], bucket: s3.Bucket
) -> None:
    upload_id = send(b"no video")
    assert_problem(http.post("/jobs", params={"upload": upload_id}), 422, "unreadable-video")
    assert bucket.keys() == [f"incoming/{upload_id}"]


def test_not_both(http: httpx.Client, clip: Path, send: Callable[[bytes], str]) -> None:
    query = {"upload": send(clip.read_bytes())}
    assert_problem(http.post("/jobs", params=query, content=b"more"), 400, "invalid-upload")
    assert_problem(http.post("/jobs", params=query, files={"file": b"more"}), 400, "invalid-upload")
    assert_problem(http.post("/jobs", params=query, files={"mask": b"GIF89a"}), 422, "invalid-option")
    assert_problem(http.post("/jobs", params=query, files={"mask": bytes(2**21)}), 422, "invalid-option")
    assert_problem(http.post("/jobs", params=query | {"colour": "1"}), 422, "invalid-option")


@pytest.mark.parametrize(
    ("size", "status", "slug"),
    [(5 * 2**30, 413, "upload-too-large"), (0, 422, "invalid-request"), (-1, 422, "invalid-request")],
)
def test_a_size_that_is_no_good(size: int, status: int, slug: str, http: httpx.Client) -> None:
    assert_problem(http.post("/uploads", params={"size_bytes": size}), status, slug)


def test_options_are_refused_before_a_byte_is_sent(http: httpx.Client, redis: Any) -> None:
    query = {"size_bytes": "5", "factor": "99"}
    problem = assert_problem(http.post("/uploads", params=query), 422, "invalid-option")
    assert "factor was '99'" in problem["detail"] and redis.keys("dain:incoming:*") == []


class TestFolder:
    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        return settings.model_copy(update={"store_url": (tmp_path / "store").as_uri()})

    def test_takes_no_uploads_itself(self, http: httpx.Client) -> None:
        problem = assert_problem(http.post("/uploads", params={"size_bytes": 5}), 501, "no-upload-links")
        assert "POST /jobs" in problem["detail"]
