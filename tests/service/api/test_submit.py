"""POST /jobs: what is taken, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api import idempotency, uploads
from service.api import service as held
from service.api.probe import Prober
from service.api.routes import submit
from service.jobs.machine import Jobs
from service.jobs.queue import Queue
from service.jobs.records import STORED_STATES
from service.jobs.workers import WorkerRecord, Workers
from service.settings import Settings
from service.store import Store
from tests.api import assert_problem, until

RAW = {"Content-Type": "application/octet-stream"}
Debris = Callable[[], list[str]]


def post_form(
    http: httpx.Client, clip: Path, headers: dict[str, str] | None = None, **options: str
) -> httpx.Response:
    return http.post("/jobs", files={"file": (clip.name, clip.read_bytes())}, data=options, headers=headers)


def post_raw(
    http: httpx.Client, clip: Path, headers: dict[str, str] | None = None, **options: str
) -> httpx.Response:
    return http.post("/jobs", content=clip.read_bytes(), params=options, headers=RAW | (headers or {}))


# -- accepted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("post", [post_form, post_raw])
def test_an_accepted_job_is_stored_recorded_and_queued(
    post: Callable[..., httpx.Response],
    http: httpx.Client,
    clip: Path,
    store: Store,
    jobs: Jobs,
    redis: Redis,
) -> None:
    response = post(http, clip, factor="3", audio="none")
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["Location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert job["status"] == "queued"
    assert job["options"]["factor"] == 3
    assert (job["input"]["width"], job["input"]["height"], job["input"]["frames"]) == (96, 64, 12)
    assert "source" not in job and "result" not in job["links"]
    with store.fetch(jobs.get(job["id"]).source) as upload:
        assert upload.read_bytes() == clip.read_bytes()
    assert Queue(redis).waiting() == {(job["id"], "plan")}
    assert list((store.root / "scratch").iterdir()) == []
    assert http.get(f"/jobs/{job['id']}").json()["id"] == job["id"]


@pytest.mark.parametrize("before", [True, False])
def test_options_may_come_before_or_after_the_file(before: bool, http: httpx.Client, clip: Path) -> None:
    file, option = ("file", ("clip.mp4", clip.read_bytes())), ("target_fps", (None, b"59.94"))
    response = http.post("/jobs", files=[option, file] if before else [file, option])
    assert response.json()["options"]["target_fps"] == "60000/1001"


@pytest.mark.parametrize(
    ("option", "text", "meant"),
    [
        ("speed", "0.333333333", "1/3"),
        ("speed", "0.111111111", "1/9"),
        ("speed", "0.142857142", "1/7"),
        ("target_fps", "25.000000001", "25"),
        ("target_fps", "14.985014985", "15000/1001"),
        ("target_fps", "999.999999999", "1000"),
        ("target_fps", "12.345678901", None),
    ],
)
def test_a_number_of_many_digits_is_the_nearest_fraction(
    option: str, text: str, meant: str | None, http: httpx.Client, clip: Path
) -> None:
    response = post_raw(http, clip, **{option: text})
    assert response.status_code == 202, response.text
    job = response.json()
    assert job["options"][option] == (meant or job["options"][option])
    assert http.get("/jobs").json()["jobs"] == [job]
    assert http.get(f"/jobs/{job['id']}").json() == job
    again = post_raw(http, clip, **{option: job["options"][option]})  # what is printed can be asked for
    assert again.json()["options"] == job["options"]
    assert http.delete(f"/jobs/{job['id']}").status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["video/mp4", "video/x-matroska", "image/gif", "application/zip", "APPLICATION/Octet-Stream", None],
)
def test_content_types_of_a_raw_body(content_type: str | None, http: httpx.Client, clip: Path) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert http.post("/jobs", content=clip.read_bytes(), headers=headers).status_code == 202


@pytest.mark.parametrize(
    ("header", "filename"),
    [
        ('attachment; filename="holiday.mp4"', "holiday.mp4"),
        ("attachment; filename*=UTF-8''caf%C3%A9.mp4", "café.mp4"),
        ('attachment; filename="café.mp4"', "café.mp4"),
        ("attachment; filename*=idna''%ff%fe.mp4", "video"),
        ("attachment; filename*=unicode_escape''%5Cud800.mp4", "video"),
        ("attachment; filename*=UTF-8'en'%ff%fe.mp4; filename=plain.mp4", "��.mp4"),
        ("attachment; filename=plain.mp4; filename*=UTF-8''caf%C3%A9.mp4", "café.mp4"),
        ("attachment; filename=plain.mp4;", "plain.mp4"),
        (r'attachment; filename="a \"b\".mp4"', 'a "b".mp4'),
        (f"attachment; filename*{'9' * 5000}=x", "video"),
        ("attachment; filename*=x; filename*0=y; filename*é*=z", "video"),
        ('attachment; filename="open', "video"),
        ("attachment", "video"),
        (None, "video"),
    ],
)
def test_filename_of_a_raw_body(header: str | None, filename: str, http: httpx.Client, clip: Path) -> None:
    headers = [(b"Content-Disposition", header.encode())] if header else []
    response = http.post(
        "/jobs", content=clip.read_bytes(), headers=[(b"Content-Type", b"video/mp4"), *headers]
    )
    assert response.json()["filename"] == filename


def test_filename_in_the_query_and_in_a_form(http: httpx.Client, clip: Path) -> None:
    assert post_raw(http, clip, filename="a b.mp4").json()["filename"] == "a b.mp4"
    assert (
        http.post("/jobs", files={"file": ("żółw.mp4", clip.read_bytes())}).json()["filename"] == "żółw.mp4"
    )


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\one.mp4", "one.mp4"),
        ("a\r\nX-Evil: 1\x00.mp4", "aX-Evil: 1.mp4"),
        ("..", "video"),
        ("", "video"),
        (None, "video"),
        (".hidden.mp4", "hidden.mp4"),
        ("x" * 500 + ".mp4", "x" * 124 + ".mp4"),
        ("x." + "y" * 500, "x" * 1 + "." + "y" * 15),
    ],
)
def test_filenames_are_cleaned(given: str | None, shown: str) -> None:
    assert uploads.clean_filename(given) == shown


PNG = b"\x89PNG\r\n\x1a\n and what follows"


def test_a_mask_comes_beside_the_video(http: httpx.Client, clip: Path, store: Store, jobs: Jobs) -> None:
    files = {"mask": ("mask.png", PNG), "file": ("clip.mp4", clip.read_bytes())}
    job = http.post("/jobs", files=files, data={"factor": "3"}).json()
    assert job["options"]["mask"] == hashlib.sha256(PNG).hexdigest()
    with store.fetch(f"masks/{job['id']}", sha256=job["options"]["mask"]) as path:
        assert path.read_bytes() == PNG


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("post", [post_form, post_raw])
def test_a_bad_option_is_named_and_leaves_nothing(
    post: Callable[..., httpx.Response], http: httpx.Client, clip: Path, debris: Debris
) -> None:
    problem = assert_problem(post(http, clip, factor="99"), 422, "invalid-option")
    assert "factor" in problem["detail"] and "2 to 16" in problem["detail"] and "'99'" in problem["detail"]
    assert "speed" in assert_problem(post(http, clip, speed="2"), 422, "invalid-option")["detail"]
    assert debris() == []


@pytest.mark.parametrize("mask", [b"GIF89a", PNG + bytes(2**19)])
def test_a_mask_that_is_no_small_png_leaves_nothing(
    mask: bytes, http: httpx.Client, clip: Path, debris: Debris
) -> None:
    for files in ({"mask": mask, "file": clip.read_bytes()}, {"file": clip.read_bytes(), "mask": mask}):
        problem = assert_problem(http.post("/jobs", files=files), 422, "invalid-option")
        assert "no PNG of at most 524288 bytes" in problem["detail"]
    assert debris() == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("facter", "factor"),
        ("target-fps", "target_fps"),
        ("fps", "target_fps"),
        ("Speed", "speed"),
        ("zzz", None),
    ],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(
    name: str, meant: str | None, http: httpx.Client, clip: Path
) -> None:
    detail = assert_problem(post_raw(http, clip, **{name: "2"}), 422, "invalid-option")["detail"]
    assert f"there is no option {name!r}" in detail and "scene_threshold" in detail
    assert (f"did you mean {meant!r}?" in detail) if meant else ("did you mean" not in detail)


def test_what_is_no_video_leaves_nothing(http: httpx.Client, tmp_path: Path, debris: Debris) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\nfile:///etc/passwd\n" * 100)
    for post in (post_form, post_raw):
        response = post(http, text)
        assert response.status_code in (415, 422)
        assert "/etc" not in response.text and str(tmp_path) not in response.text
    assert debris() == []


@pytest.mark.parametrize(
    ("content", "headers", "status", "slug"),
    [
        (b"", RAW, 400, "invalid-upload"),
        (b"x", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"),
        (b"x", RAW | {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        (b"x", {"Content-Type": "multipart/form-data"}, 400, "invalid-upload"),
        (b"x", {"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}, 400, "invalid-upload"),
        (b"no boundary", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "invalid-upload"),
        (b"x", RAW | {"Idempotency-Key": '"unclosed'}, 400, "invalid-idempotency-key"),
        (b"x", RAW | {"Idempotency-Key": '""'}, 400, "invalid-idempotency-key"),
    ],
)
def test_malformed_requests(
    content: bytes, headers: dict[str, str], status: int, slug: str, http: httpx.Client, debris: Debris
) -> None:
    assert_problem(http.post("/jobs", content=content, headers=headers), status, slug)
    assert debris() == []


FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\ndata\r\n'
FACTOR = b'--b\r\nContent-Disposition: form-data; name="factor"\r\n\r\n2\r\n'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"--b--\r\n", "no part named `file`"),
        (FACTOR + b"--b--\r\n", "POST /jobs?upload=ID"),
        (FILE, "before its last boundary"),
        (FILE[:-8], "before its last boundary"),
        (FILE + FILE + b"--b--\r\n", "two parts named `file`"),
        (FACTOR + FACTOR.replace(b"2\r\n", b"3\r\n") + FILE + b"--b--\r\n", "twice, as '2' and as '3'"),
        (
            FILE.replace(b'"file"', b'"fil"') + b"--b--\r\n",
            "file in the field 'fil': put the video into the field `file`",
        ),
        (
            FILE.replace(b'"file"', b'"fil"').replace(b"data", b"d" * 2000) + b"--b--\r\n",
            "put the video into the field `file`",
        ),
        (b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n", "no name"),
        (
            b"".join(FACTOR.replace(b"factor", b"f%d" % n) for n in range(40)) + b"--b--\r\n",
            "more than 32 parts",
        ),
    ],
)
def test_malformed_forms(body: bytes, words: str, http: httpx.Client, debris: Debris) -> None:
    response = http.post("/jobs", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert words in assert_problem(response, 400, "invalid-upload")["detail"]
    assert debris() == []


def test_metadata_of_a_megabyte(http: httpx.Client, clip: Path, debris: Debris) -> None:
    response = post_form(http, clip, metadata='{"a": "' + "b" * 2**20 + '"}')
    assert "'metadata' has more than 32768 bytes" in assert_problem(response, 422, "invalid-option")["detail"]
    assert debris() == []


def test_an_option_with_two_values(http: httpx.Client, clip: Path) -> None:
    response = http.post("/jobs?factor=2&factor=3", content=b"x", headers=RAW)
    assert_problem(response, 400, "invalid-upload")
    file = {"file": ("clip.mp4", clip.read_bytes())}
    response = http.post("/jobs?model=dain", files=file, data={"model": "dain-lite"})
    assert "'model' is given twice" in assert_problem(response, 400, "invalid-upload")["detail"]


def test_a_model_of_ones_own_is_taken_where_a_worker_serves_it(
    http: httpx.Client, clip: Path, redis: Redis, settings: Settings
) -> None:
    """Where none does it is refused before the video is read, and the models that there are are named."""
    file = {"file": ("clip.mp4", clip.read_bytes())}
    problem = assert_problem(http.post("/jobs?model=film", files=file), 422, "invalid-option")
    assert "model was 'film', which no worker here serves now" in problem["detail"]
    assert "choose one of auto, dain, dain-lite, dain-refined." in problem["detail"]
    record = WorkerRecord(
        name="ann",
        host="here",
        pid=1,
        device="cpu",
        device_name="cpu",
        backend="cpu",
        model="dain-lite",
        models=["dain", "dain-lite", "film"],
        precision="fp32",
        ready=True,
        started_at=0.0,
    )
    Workers(redis, ttl_seconds=settings.worker_ttl_seconds).heartbeat(record)
    assert http.get("/workers").json()[0]["models"] == ["dain", "dain-lite", "film"]
    for request in ({"files": file}, {"content": clip.read_bytes(), "headers": RAW}):
        response = http.post("/jobs?model=film", **request)
        assert response.status_code == 202, response.text
        assert response.json()["options"]["model"] == "film"
    problem = assert_problem(http.post("/jobs?model=../film", files=file), 422, "invalid-option")
    assert "model was '../film', which is not accepted" in problem["detail"]


def test_a_codec_is_taken_where_every_worker_has_it(
    http: httpx.Client, clip: Path, redis: Redis, settings: Settings
) -> None:
    def ask(options: str) -> httpx.Response:
        return http.post(f"/jobs?{options}", files={"file": ("clip.mp4", clip.read_bytes())})

    workers = Workers(redis, ttl_seconds=settings.worker_ttl_seconds)
    record = WorkerRecord(
        name="ann",
        host="here",
        pid=1,
        device="cpu",
        device_name="cpu",
        backend="cpu",
        model="dain-lite",
        codecs=["h264", "h264_nvenc", "hevc"],
        precision="fp32",
        ready=True,
        started_at=0.0,
    )
    problem = assert_problem(ask("codec=h264_nvenc"), 422, "codec-unavailable")
    assert "for mp4 choose h264, hevc, av1 or vp9." in problem["detail"]
    workers.heartbeat(record)
    assert ask("codec=h264_nvenc").status_code == 202
    workers.heartbeat(record.model_copy(update={"name": "bob", "codecs": ["h264", "hevc"]}))
    problem = assert_problem(ask("codec=h264_nvenc"), 422, "codec-unavailable")
    assert "codec was 'h264_nvenc', which not every worker here can encode now" in problem["detail"]
    assert "for mp4 choose h264 or hevc." in problem["detail"]
    assert_problem(ask("container=webm"), 422, "codec-unavailable")
    workers.heartbeat(record.model_copy(update={"name": "cid", "codecs": None}))  # of an earlier release
    assert_problem(ask("codec=hevc"), 422, "codec-unavailable")


def test_an_option_given_twice_with_one_value(http: httpx.Client, clip: Path) -> None:
    file = {"file": ("clip.mp4", clip.read_bytes())}
    response = http.post("/jobs?model=dain&factor=3", files=file, data={"model": "dain", "quality": "20"})
    assert response.status_code == 202, response.text
    options = response.json()["options"]
    assert (options["model"], options["factor"], options["quality"]) == ("dain", 3, 20)


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        ({"max_pixels": 96 * 64 - 1}, {}),
        ({"max_duration_seconds": 0.4}, {}),
        ({"max_frames": 12 * 3 - 1}, {"factor": "3"}),
        ({"max_frames": 29}, {"target_fps": "60"}),
        ({"max_frames": 12 * 3 - 1}, {"speed": "1/3"}),
        ({"max_frames": 59}, {"speed": "0.5", "target_fps": "60"}),
    ],
)
class TestLimits:
    @pytest.fixture
    def settings(self, settings: Settings, limit: dict[str, Any]) -> Settings:
        return settings.model_copy(update=limit)

    def test_a_video_past_a_limit_leaves_nothing(
        self, options: dict[str, str], http: httpx.Client, clip: Path, debris: Debris
    ) -> None:
        problem = assert_problem(post_raw(http, clip, **options), 422, "limit-exceeded")
        assert "at most" in problem["detail"]
        assert debris() == []


class TestByteCap:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_upload_bytes": 3 * uploads.MIB})

    def test_an_announced_size_is_refused_unread(self, http: httpx.Client, debris: Debris) -> None:
        sent: list[int] = []
        headers = RAW | {"Content-Length": str(2**40)}
        assert_problem(http.post("/jobs", content=chunks(sent, 64), headers=headers), 413, "upload-too-large")
        assert debris() == []

    def test_the_server_stops_reading_at_the_cap(self, http: httpx.Client, debris: Debris) -> None:
        sent: list[int] = []
        response = http.post("/jobs", content=chunks(sent, 64), headers=RAW)
        problem = assert_problem(response, 413, "upload-too-large")
        assert problem["max_bytes"] == 3 * uploads.MIB
        assert response.headers["Connection"] == "close"
        assert sum(sent) < 32 * uploads.MIB  # what the sockets buffer, and no more
        assert debris() == []

    def test_in_a_form_too(self, http: httpx.Client, debris: Debris) -> None:
        response = http.post("/jobs", files={"file": ("a.mp4", bytes(3 * uploads.MIB + 1))})
        assert_problem(response, 413, "upload-too-large")
        assert debris() == []

    def test_padding_does_not_pass_the_cap(self, http: httpx.Client, debris: Debris) -> None:
        def body() -> Iterator[bytes]:
            yield FILE + b"--b--\r\n"
            yield from chunks([], 64)

        response = http.post(
            "/jobs", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
        assert_problem(response, 413, "upload-too-large")
        assert debris() == []


def chunks(sent: list[int], count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield bytes(uploads.MIB)
        sent.append(uploads.MIB)


class TestFullDisk:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"min_free_bytes": 2**60})

    def test_is_said_before_the_body_is_read(self, http: httpx.Client, clip: Path, debris: Debris) -> None:
        response = post_raw(http, clip)
        detail = assert_problem(response, 507, "insufficient-storage")["detail"]
        assert re.search(
            r"store has [\d.]+\w+ left; an upload of 6\.0KiB .* leave 1\.0EiB free .*\(DAIN_MIN_FREE_BYTES\)",
            detail,
        )
        assert int(response.headers["Retry-After"]) > 0
        assert debris() == []


class TestFullQueue:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_queued_jobs": 1})

    def test_refuses_new_jobs_and_answers_repeated_requests(self, http: httpx.Client, clip: Path) -> None:
        key = {"Idempotency-Key": '"first"'}
        first = post_raw(http, clip, key)
        response = post_raw(http, clip)
        assert_problem(response, 429, "queue-full")
        assert int(response.headers["Retry-After"]) > 0
        assert post_raw(http, clip, key).json()["id"] == first.json()["id"]


class TestHeavyFiles:
    @pytest.fixture(autouse=True)
    def few_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(held, "LOOKS", 2)

    def test_of_one_owner_hold_up_no_other(
        self,
        http: httpx.Client,
        clip: Path,
        tmp_path: Path,
        make_key: Callable[..., dict[str, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The clip comes last, and is answered while the first heavy file is looked into."""
        heavy, over, looked = tmp_path / "heavy.mp4", threading.Event(), list[Path]()
        heavy.write_bytes(clip.read_bytes() + bytes(1000))  # an MP4 may have bytes behind it

        def probe(prober: Prober, path: Path, *others: Any) -> dict[str, Any]:
            if path.stat().st_size == heavy.stat().st_size:
                looked.append(path)
                assert over.wait(60)
            return real(prober, path, *others)

        real = submit.probe
        monkeypatch.setattr(submit, "probe", probe)
        others, own = make_key("bob"), make_key("ann")
        with ThreadPoolExecutor(4) as pool:
            heavies = [pool.submit(post_raw, http, heavy, others, factor="2") for _ in range(4)]
            until(lambda: looked)
            try:
                assert post_raw(http, clip, own).status_code == 202
                assert len(looked) == 1
            finally:
                over.set()
            assert {each.result().status_code for each in heavies} == {202}


def half_a_request(url: str, headers: str = "") -> socket.socket:
    """A connection on which half of an upload has been sent."""
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port or 80))
    head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\nContent-Length: 4000000\r\n"
    connection.sendall(f"{head}{headers}\r\n".encode() + bytes(2_000_000))
    return connection


def test_a_client_that_goes_away_leaves_nothing(url: str, store: Store, debris: Debris) -> None:
    with half_a_request(url, 'Idempotency-Key: "gone"\r\n'):
        until(lambda: list((store.root / "scratch").rglob("upload")))
    until(lambda: debris() == [])


def test_a_client_that_stops_sending_is_let_go(
    url: str, debris: Debris, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
    with half_a_request(url) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    until(lambda: debris() == [])


@pytest.mark.parametrize("post", [post_form, post_raw])
def test_a_job_shows_the_callers_own_name_and_notes_and_is_found_by_them(
    post: Callable[..., httpx.Response], http: httpx.Client, clip: Path
) -> None:
    job = post(http, clip, reference="order 7", metadata='{"user": "42", "größe": "ü&="}').json()
    other = post(http, clip, metadata='{"user": "43"}').json()
    shown = http.get(job["links"]["self"]).json()
    assert shown["reference"] == "order 7" and shown["metadata"] == {"user": "42", "größe": "ü&="}
    assert other["reference"] is None

    def found(**query: str) -> list[str]:
        page = http.get(
            "/jobs", params={name.replace("__", "."): value for name, value in query.items()}
        ).json()
        assert page["next_cursor"] is None
        return [job["id"] for job in page["jobs"]]

    assert found(reference="order 7") == found(metadata__user="42", metadata__größe="ü&=") == [job["id"]]
    assert found(metadata__user="43", status="queued") == [other["id"]]
    assert found(reference="order") == found(metadata__user="42", reference="order 8") == []


@pytest.mark.parametrize("name", ["bogus", "metadata", "metadta.user", "offset"])
def test_jobs_are_not_found_by_what_there_is_not(name: str, http: httpx.Client) -> None:
    detail = assert_problem(http.get("/jobs", params={name: "1"}), 422, "invalid-request")["detail"]
    assert repr(name) in detail and "metadata.KEY" in detail


def test_no_job_is_found_by_a_status_that_none_has(http: httpx.Client) -> None:
    for status in ("unknown", "done"):
        detail = assert_problem(http.get("/jobs", params={"status": status}), 422, "invalid-request")[
            "detail"
        ]
        assert f"'{status}'" in detail and detail.endswith(
            "'queued', 'running', 'succeeded', 'failed' or 'cancelled'"
        )
    for status in STORED_STATES:
        assert http.get("/jobs", params={"status": status}).status_code == 200


def test_a_client_that_sends_single_bytes_is_let_go(
    url: str, debris: Debris, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(uploads, "SLOWEST_CLIENT", 10**9)
    with half_a_request(url) as connection:
        connection.setblocking(False)
        answer = b""
        while not answer:
            with suppress(BlockingIOError):
                answer = connection.recv(100)
            with suppress(BrokenPipeError, BlockingIOError):
                connection.send(b"x")
            time.sleep(0.05)
        assert answer.startswith(b"HTTP/1.1 408 ")
    until(lambda: debris() == [])


# -- idempotency ----------------------------------------------------------------------------------

KEY = {"Idempotency-Key": '"a key"'}


def test_a_repeated_request_gets_the_first_ones_job(http: httpx.Client, clip: Path, jobs: Jobs) -> None:
    first, again = (
        post_raw(http, clip, KEY),
        post_form(http, clip, KEY),
    )  # the work counts, not how it was sent
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Location"] == first.headers["Location"]
    assert jobs.counts()["queued"] == 1


def test_bare_and_quoted_keys_are_the_same() -> None:
    assert idempotency.parse("abc") == idempotency.parse('"abc"')
    assert idempotency.parse(r'"a\"b\\c"') == r'a"b\c'


def test_a_key_is_not_for_other_requests(
    http: httpx.Client, clip: Path, make_clip: Callable[..., Path]
) -> None:
    post_raw(http, clip, KEY)
    other = make_clip("other.mp4", source="color=red:size=32x32:rate=10:duration=0.5")
    assert_problem(post_raw(http, other, KEY), 422, "idempotency-key-reused")
    assert_problem(post_raw(http, clip, KEY, factor="3"), 422, "idempotency-key-reused")
    assert_problem(post_raw(http, clip, KEY, reference="order 7"), 422, "idempotency-key-reused")


def test_the_key_of_a_removed_job_makes_no_new_one(http: httpx.Client, clip: Path, jobs: Jobs) -> None:
    job = post_raw(http, clip, KEY).json()
    jobs.cancel(job["id"])
    http.delete(f"/jobs/{job['id']}")
    assert_problem(post_raw(http, clip, KEY), 410, "job-gone")


def test_a_refused_request_frees_its_key(http: httpx.Client, clip: Path) -> None:
    assert post_raw(http, clip, KEY, factor="1").status_code == 422
    assert post_raw(http, clip, KEY, factor="2").status_code == 202


def test_racing_requests_make_one_job(http: httpx.Client, clip: Path, jobs: Jobs, store: Store) -> None:
    responses: list[httpx.Response] = []
    racers = [threading.Thread(target=lambda: responses.append(post_raw(http, clip, KEY))) for _ in range(6)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert {response.status_code for response in responses} <= {202, 409}
    assert len({response.json()["id"] for response in responses if response.status_code == 202}) == 1
    assert jobs.counts()["queued"] == 1
    assert len(list(store.keys("uploads/"))) == 1


def test_a_key_is_in_use_as_long_as_its_request_lasts(
    url: str, http: httpx.Client, clip: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "RENEWAL_SECONDS", 0.1)
    with half_a_request(url, 'Idempotency-Key: "a key"\r\n'):
        until(lambda: redis.keys("*:lease"))
        [lease] = redis.keys("*:lease")
        redis.pexpire(lease, 20_000)
        until(lambda: redis.pttl(lease) > 20_000)  # it was renewed
        response = post_raw(http, clip, KEY)
        assert_problem(response, 409, "idempotency-key-in-use")
        assert int(response.headers["Retry-After"]) > 0
    until(lambda: post_raw(http, clip, KEY).status_code == 202)


def test_a_key_is_free_soon_after_its_process_was_killed(
    http: httpx.Client, clip: Path, redis: Redis
) -> None:
    assert post_raw(http, clip, KEY).status_code == 202
    (name,) = redis.keys("dain:idempotency:*")
    redis.delete(name)
    lease = f"{name.decode()}:lease"
    redis.set(lease, "a dead process's token")
    assert post_raw(http, clip, KEY).status_code == 409
    redis.pexpire(lease, 1)
    until(lambda: post_raw(http, clip, KEY).status_code == 202)


def test_a_lost_lease_makes_no_job(
    url: str, http: httpx.Client, clip: Path, redis: Redis, store: Store
) -> None:
    """Another request may hold the key by now, after this process was stopped for longer than the lease."""

    def slow() -> Iterator[bytes]:
        yield clip.read_bytes()
        until(lambda: redis.keys("*:lease"))
        redis.set(redis.keys("*:lease")[0], "another request's token")

    assert_problem(http.post("/jobs", content=slow(), headers=RAW | KEY), 409, "idempotency-key-in-use")
    assert list(store.keys("uploads/")) == []


def test_a_request_without_a_key_leaves_none_behind(http: httpx.Client, clip: Path, redis: Redis) -> None:
    first, second = post_raw(http, clip), post_raw(http, clip)
    assert first.json()["id"] != second.json()["id"]
    assert redis.keys("dain:idempotency:*") == []
