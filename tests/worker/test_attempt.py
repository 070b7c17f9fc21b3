"""Every way that an attempt at a task can end, on real Redis, store and videos."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis
from redis.exceptions import ConnectionError

from dain_core.runtime.memory import FrameTooLargeError
from dain_core.weights.files import WeightsError
from dain_core.weights.registry import UnknownModelError
from service.jobs import janitor
from service.jobs.names import PLAN
from service.jobs.records import Origin, State
from service.settings import Settings
from tests.worker.one_worker import Bench
from worker.attempt import STORE_SECONDS
from worker.media.errors import MediaError


@pytest.fixture
def bench(redis: Redis, settings: Settings) -> Bench:
    return Bench(redis, settings.model_copy(update={"segment_frames": 8, "max_attempts": 2}))


def fails_with(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FloatingPointError("not finite in float32"), "its weights make frames that are not finite"),
        (WeightsError("/srv/models/film.safetensors is damaged"), "film.safetensors is damaged. Correct"),
    ],
)
def test_a_model_that_cannot_be_used_is_to_blame_and_not_the_video(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    job = bench.accept(clip, tmp_path, model="dain-refined")
    fails = fails_with(error)
    if isinstance(error, WeightsError):
        monkeypatch.setattr(bench.models, "_load", fails)
    else:
        monkeypatch.setattr(bench.models.named("dain-refined"), "submit", fails)
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:model-failed"
    assert "The model dain-refined failed, and not the video" in failed.error["detail"]
    assert reason in failed.error["detail"] and "/srv" not in failed.error["detail"]


def test_a_worker_without_the_model_leaves_the_task_to_another(
    bench: Bench,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As do a worker without the folder of models, and one of an older release beside a newer one."""
    job = bench.accept(clip, tmp_path, model="dain-refined")
    sweeper = janitor.Janitor(bench.jobs, bench.queue, bench.workers, bench.store, record_ttl_seconds=10**9)
    with monkeypatch.context() as patch:
        patch.setattr(
            bench.models, "_load", fails_with(UnknownModelError("no model is called 'dain-refined'"))
        )
        for _ in range(2 * bench.runtime.settings.max_attempts):
            assert bench.work() < 100  # what is handed back is not in the queue at once
            sweeper.redeliver()
        assert bench.queue.waiting() == set()  # no living worker serves the model
        assert f"job {job.id} waits: no living worker serves its model dain-refined" in caplog.text
        bench.telemetry.update(models=["dain-refined"])  # as if it were another worker
        for _ in range(2 * bench.runtime.settings.max_attempts):
            sweeper.redeliver()
            assert (job.id, "segment-0") in bench.queue.waiting()
            bench.work()
    assert bench.jobs.get(job.id).status is State.RUNNING
    assert set(bench.jobs.task_fields(job.id, ["segment-0", "segment-1"], "attempts")) == {"0"}
    sweeper.redeliver()
    bench.work()
    done = bench.jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.metrics.attempts_failed == 0


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


def test_a_video_at_fault_fails_at_once_and_says_why(bench: Bench, clip: Path, tmp_path: Path) -> None:
    job = bench.accept(clip, tmp_path, upload=clip.read_bytes()[:200])
    assert bench.work() == 1
    failed = bench.jobs.get(job.id)
    assert failed.status is State.FAILED and failed.error is not None
    assert failed.error["type"] == "urn:dain:problem:unreadable-video" and failed.error["status"] == 422


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


def test_a_full_disk_is_named_once_there_was_time_to_make_room(
    bench: Bench, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.accept(clip, tmp_path)
    bench.work(1)
    pauses: list[float] = []
    monkeypatch.setattr(bench.draining, "wait", pauses.append)
    monkeypatch.setattr(bench.store, "put", fails_with(OSError(errno.ENOSPC, "No space left on device")))
    bench.work()
    failed = bench.jobs.get(job.id)
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:insufficient-storage"
    assert pauses == [STORE_SECONDS] * (bench.runtime.settings.max_attempts - 1)


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


def test_the_log_has_a_line_for_each_event_of_a_job(
    bench: Bench, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    job = bench.accept(clip, tmp_path, origin=Origin("order-7"))
    bench.work()
    lines: list[dict[str, Any]] = [line.msg for line in caplog.records if isinstance(line.msg, dict)]
    segments = bench.jobs.get(job.id).metrics.segments_total or 0
    tasks = ["task done"] * (segments + 1)
    assert [line["event"] for line in lines] == [
        "job accepted",
        "job begun",
        *tasks,
        "job ended",
        "task done",
    ]
    assert all(line["job"] == job.id and line["request_id"] == "order-7" for line in lines)
    *_, ended, assembled = lines
    about = {"owner": "default", "name": "clip.mp4", "outcome": "succeeded", "frames": 24}
    assert ended.items() >= about.items() and ended["fps"] > 0 and ended["seconds"] > 0
    assert assembled["task"] == "assemble" and assembled["worker"] == "bench"
