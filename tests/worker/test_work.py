"""The tasks in this process, on real Redis, store and videos: what they make, and of what."""

from __future__ import annotations

import os
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import av
import pytest
import torch
from redis import Redis
from redis.exceptions import ConnectionError

from service.jobs.names import ASSEMBLE, PLAN, segment_name
from service.jobs.queue import WarmWorker
from service.jobs.records import State, frames_key
from service.settings import Settings
from service.store import Store, Stored, StoreUnavailable
from service.store.blocks import read
from service.store.s3 import S3Store
from tests.api import until
from tests.s3 import Bucket
from tests.worker.conftest import MakeVideo
from tests.worker.one_worker import Bench
from worker import relay
from worker import work as tasks
from worker.attempt import Attempt
from worker.plan import JobPlan, RecentPlans
from worker.relay import Leg
from worker.telemetry import Made


@pytest.fixture
def bench(redis: Redis, settings: Settings) -> Bench:
    return Bench(redis, settings.model_copy(update={"segment_frames": 8, "max_attempts": 2}))


def test_a_job_that_names_no_model_gets_that_of_the_worker_which_plans_it(
    bench: Bench, clip: Path, tmp_path: Path
) -> None:
    for options, model in (({}, "dain-lite"), ({"model": "dain"}, "dain")):
        job = bench.accept(clip, tmp_path, **options)
        bench.take()
        [key] = bench.store.keys(f"plans/{job.id}/")
        with bench.store.fetch(key) as path:
            assert JobPlan.from_json(path.read_text()).options.model == model
        bench.work()
        assert bench.jobs.get(job.id).status is State.SUCCEEDED
    assert bench.models.named("dain") is bench.models.named("dain")
    assert bench.models.named("dain") is not bench.models.default


def test_the_queue_knows_tasks_by_the_names_of_every_release(
    bench: Bench, redis: Redis, clip: Path, tmp_path: Path
) -> None:
    """In an update, what one release queued is taken by a worker of another."""
    job = bench.accept(clip, tmp_path)
    waiting = bench.queue.rq
    for task in (segment_name(0), ASSEMBLE):
        bench.queue.enqueue(job.id, task)
    assert [entry.func_name for entry in waiting.jobs] == [
        "worker.tasks.plan",
        "worker.tasks.segment",
        "worker.tasks.assemble",
    ]
    WarmWorker(redis, "updated", on_drain=lambda: None).work(burst=True, logging_level="ERROR")
    bench.runtime.relay.finish()
    bench.work()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED
    assert waiting.failed_job_registry.get_job_ids() == []


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"speed": "0.25"}, (48, "24", "clip-4x-slower.mp4", 2.0)),
        ({"speed": "0.4", "target_fps": "60"}, (75, "60", "clip-2.5x-slower-60fps.mp4", 1.25)),
    ],
)
def test_a_job_in_slow_motion(
    bench: Bench, clip: Path, tmp_path: Path, options: dict[str, str], facts: tuple[object, ...]
) -> None:
    job = bench.accept(clip, tmp_path, **options)
    bench.work()
    output = bench.jobs.get(job.id).output
    assert output is not None
    assert (output.frames, output.frame_rate, output.filename, output.duration_seconds) == facts


def test_a_job_from_upload_to_result(bench: Bench, clip: Path, tmp_path: Path) -> None:
    job = bench.accept(clip, tmp_path, factor=2)
    assert bench.work() == 1 + 3 + 1
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.output is not None
    assert (done.output.frames, done.output.frame_rate, done.output.filename) == (24, "48", "clip-2x.mp4")
    assert done.metrics.segments_done == 3 and done.metrics.new_frames == 11
    assert set(done.metrics.stage_seconds) == {"decode", "inference", "encode"}
    with bench.store.fetch(done.output.key) as path, av.open(str(path)) as video:
        times = [frame.pts * frame.time_base for frame in video.decode(video=0)]
    assert times == [Fraction(n, 48) for n in range(24)]
    [record] = bench.workers.all()
    assert record.frames_total == 24 and record.frames_per_second > 0 and record.task is None
    assert record.megapixels_per_second["dain-lite"] > 0


def test_a_worker_says_what_it_makes_while_it_makes_it(bench: Bench) -> None:
    made = [Made(0)]
    with bench.telemetry.in_hand("job", "segment-0", lambda: made[-1]):
        for frames in (7, 12):
            made.append(Made(frames))
            bench.telemetry.update()  # as at each heartbeat
            [record] = bench.workers.all()
            assert record.frames_total == frames and record.frames_per_second > 0
    assert bench.workers.all()[0].frames_total == 12


def test_the_notes_of_a_job_say_what_does_not_come_through(
    bench: Bench, video: MakeVideo, tmp_path: Path
) -> None:
    sources = (
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x48:rate=25:duration=0.4",
        "-f",
        "lavfi",
        "-i",
        "sine=duration=0.4",
    )
    piece = video("noted.ts", *sources, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "mp2").read_bytes()
    source = tmp_path / "noted.ts"
    source.write_bytes(piece + piece)
    job = bench.accept(source, tmp_path)
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.output is not None
    assert done.output.frames == 2 * (10 + 10)
    assert [(note.code, note.text.split(":")[0], note.stream) for note in done.notes] == [
        ("times-restart", "The file's times start again", None),
        ("audio-encoded", "Sound track 1 (mp2) is encoded again, as AAC", 1),
    ]


def test_scene_cuts_are_told_with_their_times(bench: Bench, video: MakeVideo, tmp_path: Path) -> None:
    scenes = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.4")
    scenes += ("-f", "lavfi", "-i", "mandelbrot=size=64x48:rate=25", "-t", "0.8")
    joined = ("-filter_complex", "[0][1]concat=n=2", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    job = bench.accept(video("scenes.mp4", *scenes, *joined), tmp_path)
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.metrics.scene_cuts == 1
    assert [(note.code, note.time) for note in done.notes] == [("scene-cut", "2/5")]


def test_a_strict_job_fails_before_a_frame_is_made_where_something_would_be_lost(
    bench: Bench, video: MakeVideo, tmp_path: Path
) -> None:
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.4")
    tone = ("-f", "lavfi", "-i", "sine=duration=0.4")
    source = video("strict.mkv", *picture, *tone, "-c:v", "mpeg4", "-c:a", "mp2")
    job = bench.accept(source, tmp_path, strict="true")
    assert bench.work() == 1
    done = bench.jobs.get(job.id)
    assert done.status is State.FAILED and done.error is not None
    assert done.error["type"].endswith("loss-refused") and "Sound track 1 (mp2)" in done.error["detail"]


def test_segments_may_come_in_any_order_and_twice(bench: Bench, clip: Path, tmp_path: Path) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(1)
    for index in (2, 0, 0, 1, 2):
        tasks.run(job.id, segment_name(index))
    bench.runtime.relay.finish()
    tasks.run(job.id, ASSEMBLE)
    bench.runtime.relay.finish()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED
    [result, frames] = bench.keys("results")
    assert len(bench.keys("segments")) == 3 and frames == frames_key(result)


def test_the_next_segment_begins_before_the_last_is_delivered(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(1)
    put, may_deliver = bench.store.put, threading.Event()

    def put_slowly(*arguments: Any, **named: Any) -> Stored:
        assert may_deliver.wait(30)
        return put(*arguments, **named)

    monkeypatch.setattr(bench.store, "put", put_slowly)
    bench.take()
    [record] = bench.workers.all()
    assert record.task == "segment-0"
    other = threading.Thread(target=bench.take)
    other.start()
    until(lambda: bench.models.default.frames >= 8)  # the second's: the first needs five
    [record] = bench.workers.all()
    assert record.task == "segment-1" and bench.keys("segments") == []
    may_deliver.set()
    other.join()
    bench.runtime.relay.finish()
    bench.work()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED


def test_the_next_task_begins_shortly_before_the_last_is_through_with_the_device(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.accept(clip, tmp_path)
    bench.work(1)
    monkeypatch.setattr(relay, "HEAD_START", 1000.0)  # whatever is left of the segment is less
    model, may_go_on = bench.models.default, threading.Event()
    pair = model.pair

    def pair_slowly(*frames: torch.Tensor) -> Any:
        assert model.pairs < 2 or may_go_on.wait(30)
        return pair(*frames)

    monkeypatch.setattr(model, "pair", pair_slowly)
    bench.take()
    [record], begun = bench.workers.all(), model.pairs
    may_go_on.set()
    bench.runtime.relay.finish()
    assert record.task == "segment-0" and begun <= 2 < model.pairs
    bench.work()


def test_too_many_frames_are_refused_by_the_plan(
    redis: Redis, settings: Settings, clip: Path, tmp_path: Path
) -> None:
    bench = Bench(redis, settings.model_copy(update={"max_frames": 40}))
    job = bench.accept(clip, tmp_path, factor=4)
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:limit-exceeded"


def test_a_job_that_is_cancelled_in_its_plan_leaves_none(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    put = bench.store.put

    def cancel_and_put(*arguments: Any, **named: Any) -> Stored:
        bench.jobs.cancel(job.id)
        bench.store.delete(f"plans/{job.id}")  # as the janitor does
        return put(*arguments, **named)

    monkeypatch.setattr(bench.store, "put", cancel_and_put)
    bench.work()
    assert bench.jobs.get(job.id).status is State.CANCELLED and bench.keys("plans") == []


def test_a_planner_that_lost_its_claim_leaves_the_plan_that_counts(
    bench: Bench, redis: Redis, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    put, others = bench.store.put, iter(["another planner"])

    def let_another_be_first(*arguments: Any, **named: Any) -> Stored:
        for _ in others:
            bench.jobs.requeue_lost(job.id, PLAN, bench.jobs.task_fields(job.id, [PLAN], "token")[0] or "")
            bench.runtime.settings = bench.runtime.settings.model_copy(update={"segment_frames": 4})
            Attempt(bench.runtime, job.id, PLAN, Leg(lambda leg: None, threading.Lock())).run(tasks._plan)
        return put(*arguments, **named)

    monkeypatch.setattr(bench.store, "put", let_another_be_first)
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and len(bench.keys("plans")) == 1
    assert done.metrics.segments_total == 7  # by the settings of the second planner


def test_a_worker_takes_the_task_whose_turn_it_is(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of the queue names the task that was ready first."""
    film, short, other = (bench.accept(clip, tmp_path, work=work) for work in (1000, 1, 10))
    bench.take()
    bench.runtime.relay.finish()
    states = [bench.jobs.get(job.id).status for job in (film, short, other)]
    assert states == [State.QUEUED, State.RUNNING, State.QUEUED]

    def lose_the_connection() -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(bench.jobs, "next_task", lose_the_connection)
        bench.queue.rq.empty()
        bench.queue.enqueue(other.id, PLAN)
        bench.take()
        bench.runtime.relay.finish()
    assert bench.jobs.get(other.id).status is State.RUNNING


def test_a_worker_reads_a_plan_once(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, fetch = [], bench.store.fetch

    def fetch_and_count(key: str, **named: Any) -> Any:
        read.append(key.split("/")[:2])
        return fetch(key, **named)

    monkeypatch.setattr(bench.store, "fetch", fetch_and_count)
    jobs = [bench.accept(clip, tmp_path) for _ in range(2)]
    assert bench.work() == 2 * (1 + 3 + 1)
    assert [read.count(["plans", job.id]) for job in jobs] == [1, 1]


def harm(path: Path, how: str) -> None:
    """Do to a stored file what a disk may do."""
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 32] = bytes(32)
        path.write_bytes(content)


HARMS = pytest.mark.parametrize("how", ["missing", "truncated", "overwritten"])


@HARMS
@pytest.mark.parametrize("kind", ["plans", "segments"])
def test_a_damaged_plan_or_segment_is_made_again(
    bench: Bench, clip: Path, tmp_path: Path, kind: str, how: str
) -> None:
    undisturbed = bench.accept(clip, tmp_path)
    bench.work()
    job = bench.accept(clip, tmp_path)
    bench.work(3)  # the plan and two of three segments
    key = next(bench.store.keys(f"{kind}/{job.id}/"))
    harm(bench.store.root / key, how)
    bench.runtime.plans = RecentPlans()  # another worker goes on
    bench.work()
    done, expected = bench.jobs.get(job.id), bench.jobs.get(undisturbed.id)
    assert done.status is State.SUCCEEDED and done.output and expected.output
    assert done.output.sha256 == expected.output.sha256
    assert done.progress.frames_done == done.output.frames == 24


@HARMS
@pytest.mark.parametrize("tasks_done", [0, 1, 4])
def test_a_damaged_upload_is_the_stores_fault(
    bench: Bench, clip: Path, tmp_path: Path, tasks_done: int, how: str
) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(tasks_done)
    harm(bench.store.root / job.source, how)
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.status is State.FAILED and failed.error is not None
    assert failed.error["type"] == "urn:dain:problem:stored-file-damaged"
    assert "store" in failed.error["detail"] and str(bench.store.root) not in failed.error["detail"]
    assert bench.keys("results") == []


def test_a_store_that_damages_every_segment_fails_the_job(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    put = bench.store.put

    def put_and_harm(path: Path, key: str, **named: Any) -> Stored:
        stored = put(path, key, **named)
        if key.startswith("segments/"):
            harm(bench.store.root / key, "overwritten")
        return stored

    monkeypatch.setattr(bench.store, "put", put_and_harm)
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:stored-file-damaged"


def test_a_job_whose_files_lie_in_s3(
    redis: Redis,
    settings: Settings,
    bucket: Bucket,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upload is fetched once for all its segments, and a large result has the hashes of its blocks."""
    monkeypatch.setattr(S3Store, "whole_bytes", 100)
    fetched: list[str] = []
    download = S3Store._download
    monkeypatch.setattr(
        S3Store,
        "_download",
        lambda store, wanted, *rest: fetched.append(wanted.key) or download(store, wanted, *rest),
    )
    bench = Bench(redis, settings.model_copy(update={"segment_frames": 8, "store_url": bucket.url}))
    job = bench.accept(clip, tmp_path)
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.output
    assert (
        fetched.count(job.source) == 1 and len([key for key in fetched if key.startswith("segments/")]) == 3
    )
    with bench.store.fetch(done.output.key, sha256=done.output.sha256) as path, av.open(str(path)) as video:
        assert sum(1 for _ in video.decode(video=0)) == done.output.frames
        size, sha256 = done.output.size_bytes, done.output.blocks_sha256
        assert (
            sha256
            and b"".join(read(bench.store, done.output.key, sha256, size, 0, size)) == path.read_bytes()
        )


def test_a_task_waits_for_a_store_that_is_away(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often: no attempt at the task is to blame."""
    monkeypatch.setattr("worker.attempt.STORE_SECONDS", 0.0)
    job = bench.accept(clip, tmp_path)
    real = bench.store
    bench.runtime.store = Away(real)
    assert bench.work(most=5) == 5
    assert bench.jobs.get(job.id).status is State.RUNNING and bench.queue.depth() == 1
    bench.runtime.store = real
    bench.work()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED


class Away:
    """A store that does not answer; its scratch is on this machine."""

    def __init__(self, store: Store) -> None:
        self.scratch = store.scratch

    def fetch(self, key: str, **_: object) -> NoReturn:
        raise StoreUnavailable("The store does not answer.")
