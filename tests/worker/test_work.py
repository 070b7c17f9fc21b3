"""Tasks in this process, on real Redis, store and videos: every way that an attempt can end."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from redis import Redis
from redis.exceptions import ConnectionError

from dain_core.runtime.memory import FrameTooLargeError
from service.api.options import parse_options
from service.jobs import janitor
from service.jobs.machine import ASSEMBLE, PLAN, Jobs, new_job_id, segment_name
from service.jobs.queue import Queue, split_id
from service.jobs.records import Job, State
from service.jobs.workers import WorkerRecord, Workers
from service.settings import Settings
from service.store import Stored, open_store
from tests.api import until
from tests.worker.conftest import Average, MakeVideo
from worker import relay
from worker import work as tasks
from worker.attempt import Attempt, Runtime
from worker.media.errors import MediaError
from worker.media.sandbox import probe
from worker.models import Models
from worker.plan import JobPlan
from worker.relay import Leg
from worker.telemetry import Telemetry
from worker.watchdog import Watchdog


class Interruptible(Average):
    def __init__(self, model_name: str) -> None:
        super().__init__()
        self.model_name = model_name

    @contextmanager
    def interruptible(self, check: Callable[[], None]) -> Iterator[None]:
        yield


class Bench:
    """A worker without its loop: `work` takes what waits in the queue, as RQ would."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.jobs, self.queue = Jobs.from_settings(redis, settings), Queue(redis)
        self.store, self.workers = open_store(settings.store_url), Workers(redis, ttl_seconds=15)
        record = WorkerRecord(
            name="bench", host="here", pid=1, device="cpu", device_name="cpu", backend="cpu", model="dain",
            precision="fp32", ready=True, started_at=0.0,
        )  # fmt: skip
        self.telemetry = Telemetry(self.workers, record, ttl_seconds=15)
        self.telemetry.update(ready=True)
        self.stopped = False
        self.draining = threading.Event()
        self.models = Models(self.load, "auto")
        self.runtime = Runtime(
            name="bench",
            settings=settings,
            jobs=self.jobs,
            queue=self.queue,
            store=self.store,
            models=self.models,
            telemetry=self.telemetry,
            watchdog=Watchdog(stall_seconds=60),
            draining=self.draining,
            stop_after_task=lambda: setattr(self, "stopped", True),
        )
        tasks.install(self.runtime)

    def load(self, name: str) -> Any:
        return Interruptible("dain-lite" if name == "auto" else name)

    def accept(self, source: Path, tmp_path: Path, upload: bytes | None = None, **options: object) -> Job:
        """A job on `source`; where `upload` is given, that is what the store holds of it meanwhile."""
        job_id = new_job_id()
        copy = tmp_path / "upload"
        copy.write_bytes(source.read_bytes() if upload is None else upload)
        stored = self.store.put(copy, f"uploads/{job_id}")
        job = self.jobs.create(
            job_id,
            source=stored.key,
            source_sha256=stored.sha256,
            filename=source.name,
            options=parse_options(options),
            input={},
            facts=probe(source).as_dict(),
        )
        self.queue.enqueue(job_id, PLAN)
        return job

    def work(self, most: int = 100) -> int:
        """Run waiting tasks to their end, oldest first; returns how many."""
        for done in range(most):
            if not self.queue.depth():
                return done
            self.take()
            self.runtime.relay.finish()
        return most

    def take(self) -> None:
        """Run the oldest waiting task until the next may begin beside it."""
        job_id, task = split_id(self.queue.rq.pop_job_id())
        run = {PLAN: tasks.plan, ASSEMBLE: tasks.assemble}.get(task, tasks.segment)
        run(job_id, task)

    def keys(self, *kinds: str) -> list[str]:
        return [key for kind in kinds for key in self.store.keys(f"{kind}/")]


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
    assert [note.split(":")[0] for note in done.notes] == [
        "The file's times start again",
        "Sound track 1 (mp2) is encoded again, as AAC",
    ]


def test_segments_may_come_in_any_order_and_twice(bench: Bench, clip: Path, tmp_path: Path) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(1)
    for index in (2, 0, 0, 1, 2):
        tasks.segment(job.id, segment_name(index))
    bench.runtime.relay.finish()
    tasks.assemble(job.id)
    bench.runtime.relay.finish()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED
    assert len(bench.keys("segments")) == 3 and len(bench.keys("results")) == 1


def test_a_cancelled_job_publishes_nothing(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(1)
    submit = bench.models.default.submit
    monkeypatch.setattr(bench.models.default, "submit", lambda *a: (bench.jobs.cancel(job.id), submit(*a))[1])
    bench.work()
    assert bench.jobs.get(job.id).status is State.CANCELLED
    assert bench.keys("segments", "results") == []


def test_a_drained_worker_gives_its_segment_back(bench: Bench, clip: Path, tmp_path: Path) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(1)
    bench.draining.set()
    bench.work(1)
    assert (job.id, "segment-0") in bench.queue.waiting()
    bench.draining.clear()
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.metrics.attempts_failed == 0


def fails_with(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_what_always_fails_ends_the_job_after_its_attempts(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    monkeypatch.setattr(bench.models.default, "pair", fails_with(RuntimeError("no such thing")))
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.status is State.FAILED and failed.error is not None
    assert failed.error["type"] == "urn:dain:problem:too-many-attempts"
    assert "no such thing" not in failed.error["detail"]
    assert not bench.stopped


def test_frames_too_large_for_the_gpu_are_named(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    too_large = FrameTooLargeError("a frame of 9000x9000 needs at least 90 GiB: scale the video down")
    monkeypatch.setattr(bench.models.default, "frame", fails_with(too_large))
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:limit-exceeded"
    assert "scale the video down" in failed.error["detail"]


def test_what_fails_once_is_done_by_the_next_attempt(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(bench.models.default, "pair", fails_with(RuntimeError("a hiccup")))
        bench.work(2)
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.metrics.attempts_failed == 1


def test_a_broken_gpu_ends_the_worker_after_handing_the_task_back(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    monkeypatch.setattr(bench.models.default, "pair", fails_with(torch.AcceleratorError("illegal address")))
    bench.work(2)
    assert bench.stopped and (job.id, "segment-0") in bench.queue.waiting()
    waiting = bench.queue.waiting()
    bench.work(5)  # as long as it takes what waits, it puts it back
    assert bench.queue.waiting() == waiting and bench.jobs.get(job.id).metrics.attempts_failed == 1


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


def test_a_video_at_fault_fails_at_once_and_says_why(bench: Bench, clip: Path, tmp_path: Path) -> None:
    job = bench.accept(clip, tmp_path, upload=clip.read_bytes()[:200])
    assert bench.work() == 1
    failed = bench.jobs.get(job.id)
    assert failed.status is State.FAILED and failed.error is not None
    assert failed.error["type"] == "urn:dain:problem:unreadable-video" and failed.error["status"] == 422


def test_a_full_disk_is_named(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(1)
    monkeypatch.setattr(bench.store, "put", fails_with(OSError(errno.ENOSPC, "No space left on device")))
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:insufficient-storage"


def test_finished_work_waits_for_redis(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    complete, outages = bench.jobs.complete, iter([ConnectionError("away")])

    def flaky(*arguments: Any, **named: Any) -> Any:
        for outage in outages:
            raise outage
        return complete(*arguments, **named)

    monkeypatch.setattr(bench.jobs, "complete", flaky)
    bench.work()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED


@pytest.mark.parametrize(("call", "number"), [("claim", 0), ("complete", 1), ("finish", 0)])
def test_what_redis_did_before_it_went_away_is_not_done_again(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A call has its way, but its answer is lost: of the plan's claim, a segment's completion, the job's end."""
    job = bench.accept(clip, tmp_path)
    original, numbers = getattr(bench.jobs, call), iter(range(100))

    def flaky(*arguments: Any, **named: Any) -> Any:
        made = original(*arguments, **named)
        if next(numbers) == number:
            raise ConnectionError("away")
        return made

    monkeypatch.setattr(bench.jobs, call, flaky)
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.output and bench.store.exists(done.output.key)
    assert done.progress.frames_done == done.output.frames and done.metrics.attempts_failed == 0


def test_too_many_frames_are_refused_by_the_plan(
    redis: Redis, settings: Settings, clip: Path, tmp_path: Path
) -> None:
    bench = Bench(redis, settings.model_copy(update={"max_frames": 40}))
    job = bench.accept(clip, tmp_path, factor=4)
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:limit-exceeded"


# -- plans, and attempts that lost their claim ---------------------------------------------------------


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


# -- a Redis that stays away ---------------------------------------------------------------------------


def test_a_worker_that_stops_without_redis_drops_its_task_and_says_so(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)

    def stay_away(*_: Any, **__: Any) -> None:
        bench.draining.set()
        raise ConnectionError("away")

    with monkeypatch.context() as outage:
        outage.setattr(bench.jobs, "complete", stay_away)
        outage.setattr(bench.jobs, "release", stay_away)
        bench.work()
    [record] = bench.workers.all()
    assert record.tasks == [] and bench.queue.depth() == 0
    monkeypatch.setattr(janitor, "LOST_AFTER", 0.0)
    bench.draining.clear()
    sweeper = janitor.Janitor(bench.jobs, bench.queue, bench.workers, bench.store, record_ttl_seconds=1000)
    sweeper.redeliver()
    sweeper.redeliver()
    assert bench.queue.waiting() == {(job.id, PLAN)}
    bench.work()
    assert bench.jobs.get(job.id).status is State.SUCCEEDED


def test_a_redis_that_is_away_while_work_is_done_costs_no_attempt(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    read, outages = bench.jobs.task_files, iter([ConnectionError("away")])

    def flaky(*arguments: Any) -> Any:
        for outage in outages:
            raise outage
        return read(*arguments)

    monkeypatch.setattr(bench.jobs, "task_files", flaky)
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.metrics.attempts_failed == 0


# -- files that the store has damaged ------------------------------------------------------------------


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


def test_what_ffmpeg_says_names_no_folder(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    says = MediaError(
        "damaged-video", "The video is damaged: file:/srv/store/uploads/1a: no moov (24000/1001)."
    )
    monkeypatch.setattr(bench.models.default, "pair", fails_with(says))
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None
    assert failed.error["detail"] == "The video is damaged: 1a: no moov (24000/1001)."
