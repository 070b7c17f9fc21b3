"""What a job would take, and how much work an owner may have before the workers."""

from __future__ import annotations

import zipfile
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import av
import httpx
import pytest
from redis import Redis

from service.jobs.keys import Quota
from service.jobs.machine import Jobs
from service.jobs.names import job_key
from service.jobs.records import State
from service.jobs.work import LEAST_PIXELS
from service.jobs.workers import WorkerRecord, Workers
from service.settings import Settings
from service.store import Store
from tests.api import assert_problem

RAW = {"Content-Type": "application/octet-stream"}
WORK = 11 * LEAST_PIXELS / 1e6  # of the clip, whose 12 frames are smaller than what a frame counts for


def post(http: httpx.Client, clip: Path, path: str = "/jobs", **options: str) -> httpx.Response:
    return http.post(path, content=clip.read_bytes(), params=options, headers=RAW)


def add_worker(redis: Redis, **rates: float) -> None:
    Workers(redis, ttl_seconds=15).heartbeat(
        WorkerRecord(
            name="ann",
            host="here",
            pid=1,
            device="cpu",
            device_name="cpu",
            backend="cpu",
            model="dain-lite",
            precision="fp32",
            ready=True,
            started_at=0.0,
            megapixels_per_second=rates,
        )  # fmt: skip
    )


def test_an_estimate_starts_and_keeps_nothing(
    http: httpx.Client, clip: Path, store: Store, jobs: Jobs
) -> None:
    response = post(http, clip, "/jobs/estimate", factor="3")
    assert response.status_code == 200, response.text
    estimate = response.json()
    assert (estimate["frames"], estimate["new_frames"], estimate["work"]) == (36, 22, pytest.approx(2 * WORK))
    assert estimate["input"]["width"] == 96 and estimate["queue_position"] == 0
    assert estimate["seconds"] is estimate["eta_seconds"] is None  # there is no worker
    assert sum(jobs.counts().values()) == 0
    assert list(store.keys("uploads/")) == [] and list((store.root / "scratch").iterdir()) == []


def test_an_estimate_shows_the_first_frame(http: httpx.Client, make_clip: Callable[..., Path]) -> None:
    red = make_clip(
        "red.mov", "-c:v", "ffv1", "-f", "matroska", source="color=red:size=640x320:rate=5:duration=1"
    )
    picture = b64decode(post(http, red, "/jobs/estimate").json()["picture"], validate=True)
    with av.open(BytesIO(picture), format="jpeg_pipe") as container:
        [frame] = container.decode(video=0)
    assert (frame.width, frame.height) == (320, 160)
    [pixel] = {bytes(frame.reformat(format="rgb24").planes[0])[:3]}
    assert pixel[0] > 250 and pixel[1] < 6 and pixel[2] < 6


def test_an_estimate_counts_what_goes_before(http: httpx.Client, clip: Path, redis: Redis) -> None:
    add_worker(redis, **{"dain-lite": 0.5})
    job = post(http, clip).json()
    assert job["work"] == pytest.approx(WORK)
    assert (job["progress"]["queue_position"], job["progress"]["eta_seconds"]) == (0, pytest.approx(2 * WORK))
    estimate = post(http, clip, "/jobs/estimate").json()
    assert estimate["seconds"] == pytest.approx(2 * WORK)
    assert (estimate["queue_position"], estimate["eta_seconds"]) == (1, pytest.approx(4 * WORK))
    assert post(http, clip, "/jobs/estimate", model="dain").json()["seconds"] is None


def test_fields_that_no_flag_tells_of_are_counted(http: httpx.Client, make_clip: Callable[..., Path]) -> None:
    source = "testsrc2=size=96x64:rate=50:duration=2"
    clip = make_clip(
        "fields.mp4",
        "-preset",
        "ultrafast",
        "-vf",
        "scroll=h=0.03,interlace=lowpass=0,setfield=prog",
        source=source,
    )
    estimate = post(http, clip, "/jobs/estimate").json()
    assert estimate["frames"] == 4 * estimate["input"]["frames"]
    assert [note["code"] for note in estimate["notes"]] == ["frames-unsure"]
    assert "frames_of_one" not in estimate["input"]


def test_what_would_be_refused_is_refused(http: httpx.Client, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for path in ("/jobs", "/jobs/estimate"):
        assert post(http, broken, path).status_code in (415, 422)


def test_a_strict_job_is_refused_where_the_facts_say_that_something_is_lost(http: httpx.Client) -> None:
    spatial = Path(__file__).parents[2] / "data/spatial.mov"
    for path in ("/jobs", "/jobs/estimate"):
        problem = assert_problem(post(http, spatial, path, strict="true"), 422, "loss-refused")
        assert "a view for each eye" in problem["detail"]
    [note] = post(http, spatial, "/jobs/estimate").json()["notes"]
    assert (note["code"], note["stream"], note["time"]) == ("one-view", None, None)


def test_pictures_in_an_archive_are_taken_at_the_rate_that_is_asked_for(
    http: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a2.ppm", "a10.ppm", "a1.ppm"):
            archive.writestr(name, b"P6\n16 16\n255\n" + bytes(16 * 16 * 3))
    estimate = post(http, path, "/jobs/estimate", source_fps="12", factor="4").json()
    assert (estimate["frames"], estimate["new_frames"]) == (12, 6)
    assert (estimate["input"]["average_rate"], estimate["input"]["duration"]) == ("12", "1/4")
    assert_problem(post(http, path, start="7"), 422, "invalid-option")
    assert_problem(post(http, path, video_stream="5"), 422, "no-video-stream")


class TestWithALimit:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_work": 2})

    def test_more_work_than_an_owner_may_have_is_refused_until_some_is_done(
        self, http: httpx.Client, clip: Path, jobs: Jobs, store: Store
    ) -> None:
        first, second = (post(http, clip).json()["id"] for _ in range(2))  # 1.44 megapixels
        for path in ("/jobs", "/jobs/estimate"):
            response = post(http, clip, path)
            problem = assert_problem(response, 429, "too-much-work")
            assert "have 1.44 megapixels" in problem["detail"] and "cancel" in problem["detail"]
            assert problem["used"] == 1.442
            assert int(response.headers["Retry-After"]) > 0
        assert len(list(store.keys("uploads/"))) == 2
        jobs.finish(first, State.CANCELLED)
        assert post(http, clip).status_code == 202

    def test_a_job_that_is_more_than_all_that_is_allowed_is_refused_for_good(
        self, http: httpx.Client, clip: Path
    ) -> None:
        for path in ("/jobs", "/jobs/estimate"):
            problem = assert_problem(post(http, clip, path, factor="4"), 422, "limit-exceeded")
            assert "you may have 2" in problem["detail"]


def test_a_key_says_how_much_work_its_owner_may_have_and_which_share_it_gets(
    http: httpx.Client, make_key: Callable[..., dict[str, str]], clip: Path, redis: Redis
) -> None:
    ann = make_key("ann", quota=Quota(work=1), weight=3)
    job = http.post("/jobs", content=clip.read_bytes(), headers=RAW | ann).json()["id"]
    assert redis.hget(job_key(job), "weight") == b"3.0"
    assert_problem(http.post("/jobs", content=clip.read_bytes(), headers=RAW | ann), 429, "too-much-work")
    assert http.post("/jobs", content=clip.read_bytes(), headers=RAW | make_key("bob")).status_code == 202


def test_an_estimate_says_that_a_job_may_find_fewer_frames(
    http: httpx.Client, make_clip: Callable[..., Path]
) -> None:
    clip = make_clip("fields.mp4", "-flags", "+ildct+ilme", "-x264opts", "tff=1")
    assert [note["code"] for note in post(http, clip, "/jobs/estimate").json()["notes"]] == ["frames-unsure"]
    assert post(http, clip, "/jobs/estimate", deinterlace="bob").json()["notes"] == []
