"""The sweeper: lost tasks come back, finished jobs leave no debris, results expire."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from service.api.options import parse_options
from service.jobs import janitor as janitor_module
from service.jobs.janitor import Janitor
from service.jobs.machine import Jobs
from service.jobs.names import FINISHED, OWNERS, PLAN, RESULTS, new_job_id, owner_key
from service.jobs.problems import Problem
from service.jobs.queue import Queue, WarmWorker
from service.jobs.records import DEFAULT_OWNER, Job, Output, State
from service.jobs.workers import TaskInHand, WorkerRecord, Workers, worker_key
from service.settings import Settings
from service.store import KINDS, Store, StoreUnavailable, open_store
from service.store.local import LocalStore
from tests.api import until


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    return Jobs.from_settings(redis, settings)


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue(redis)


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store_url)


@pytest.fixture
def janitor(jobs: Jobs, queue: Queue, store: Store, redis: Redis) -> Janitor:
    return Janitor(jobs, queue, Workers(redis, ttl_seconds=15), store, record_ttl_seconds=1000)


@pytest.fixture
def job(jobs: Jobs, store: Store, tmp_path: Path) -> Job:
    job_id = new_job_id()
    put(store, tmp_path, f"uploads/{job_id}")
    return jobs.create(
        job_id, source=f"uploads/{job_id}", filename="a.mp4", options=parse_options({}), input={}
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the janitor's clock shows: one number of seconds, for the test to change."""
    shown = [100.0]
    monkeypatch.setattr(janitor_module.time, "monotonic", lambda: shown[0])
    return shown


def put(store: Store, folder: Path, key: str) -> None:
    path = folder / "made"
    path.write_bytes(b"bytes")
    store.put(path, key)


def files(store: Store) -> list[str]:
    return [key for kind in ("uploads", "plans", "segments", "results") for key in store.keys(f"{kind}/")]


def test_the_jobs_of_an_earlier_release_are_listed(
    janitor: Janitor, jobs: Jobs, job: Job, redis: Redis
) -> None:
    redis.delete(owner_key(DEFAULT_OWNER), OWNERS)
    janitor.tidy()
    assert [listed.id for listed in jobs.page(DEFAULT_OWNER)[0]] == [job.id]


def test_a_dead_workers_task_is_delivered_again(
    janitor: Janitor, jobs: Jobs, queue: Queue, job: Job, redis: Redis, clock: list[float]
) -> None:
    """At the first sweep that finds its record expired, where sweeps were regular before."""
    Workers(redis, ttl_seconds=15).heartbeat(worker("ann"))
    jobs.claim(job.id, PLAN, "ann")
    for _ in range(4):
        janitor.redeliver()
        clock[0] += janitor_module.INTERVAL
    assert queue.waiting() == set()
    redis.delete(worker_key("ann"))
    janitor.redeliver()
    assert queue.waiting() == {(job.id, PLAN)}
    janitor.redeliver()
    assert queue.depth() == 1


def test_a_living_worker_keeps_its_task_when_an_outage_of_redis_took_its_record(
    janitor: Janitor, jobs: Jobs, queue: Queue, job: Job, redis: Redis, clock: list[float]
) -> None:
    """Every record has expired by the first good sweep, and the living report again within two heartbeats."""
    jobs.claim(job.id, PLAN, "ann")
    janitor.redeliver()
    clock[0] += 60  # the outage
    for _ in range(3):
        janitor.redeliver()
        clock[0] += janitor_module.INTERVAL
    assert queue.waiting() == set()
    Workers(redis, ttl_seconds=15).heartbeat(worker("ann"))
    janitor.redeliver()
    assert queue.waiting() == set()


def test_what_was_seen_before_an_outage_proves_nothing(
    janitor: Janitor, queue: Queue, job: Job, clock: list[float]
) -> None:
    """Here the API died before it had queued the task."""
    janitor.redeliver()
    clock[0] += 60
    janitor.redeliver()
    assert queue.waiting() == set()
    for _ in range(6):
        clock[0] += janitor_module.INTERVAL
        janitor.redeliver()
    assert queue.waiting() == {(job.id, PLAN)}


def worker(name: str, tasks: list[TaskInHand] | None = None) -> WorkerRecord:
    return WorkerRecord(
        name=name, host="here", pid=1, device="cpu", device_name="cpu", backend="cpu", model="dain",
        precision="fp32", ready=True, started_at=0.0, tasks=tasks,
    )  # fmt: skip


def test_a_task_that_its_living_worker_no_longer_has_is_delivered_again(
    janitor: Janitor, jobs: Jobs, queue: Queue, job: Job, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(redis, ttl_seconds=15)
    workers.heartbeat(worker("ann", [TaskInHand(job=job.id, task=PLAN)]))
    jobs.claim(job.id, PLAN, "ann")
    workers.heartbeat(worker("ann", []))
    janitor.redeliver()  # the list may be older than the claim
    assert queue.waiting() == set()
    monkeypatch.setattr(janitor_module, "LOST_AFTER", 0.0)
    workers.heartbeat(worker("ann", [TaskInHand(job=job.id, task=PLAN)]))
    janitor.redeliver()
    workers.heartbeat(worker("ann"))  # of a version that has no list
    janitor.redeliver()
    assert queue.waiting() == set()
    workers.heartbeat(worker("ann", []))
    janitor.redeliver()
    assert queue.waiting() == {(job.id, PLAN)}


def test_a_task_that_keeps_killing_workers_fails_its_job(
    janitor: Janitor, jobs: Jobs, job: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "GRACE_HEARTBEATS", 0)
    for _ in range(settings.max_attempts):
        jobs.claim(job.id, PLAN, "dead")
        janitor.redeliver()
    failed = jobs.get(job.id)
    assert failed.status is State.FAILED
    assert failed.error is not None and failed.error["type"] == "urn:dain:problem:too-many-attempts"


def test_a_task_in_no_queue_is_delivered_after_a_while(
    janitor: Janitor, queue: Queue, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    janitor.redeliver()  # accepted, and the API died before it was queued
    assert queue.waiting() == set()
    monkeypatch.setattr(janitor_module, "LOST_AFTER", 0.0)
    janitor.redeliver()
    assert queue.waiting() == {(job.id, PLAN)}


def test_a_task_that_left_the_line_and_was_never_claimed_is_offered_again(
    janitor: Janitor, jobs: Jobs, queue: Queue, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its worker dies between the two, or the answer gets lost."""
    assert jobs.next_task() == (job.id, PLAN)
    janitor.redeliver()
    assert jobs.in_line() == set()
    monkeypatch.setattr(janitor_module, "LOST_AFTER", 0.0)
    janitor.redeliver()
    assert jobs.in_line() == queue.waiting() == {(job.id, PLAN)}
    janitor.redeliver()
    assert queue.depth() == 1


def test_any_entries_of_the_queue_will_do_as_long_as_there_are_enough(
    janitor: Janitor, jobs: Jobs, queue: Queue, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that takes an entry takes the task whose turn it is, and most often not the one that is named."""
    monkeypatch.setattr(janitor_module, "LOST_AFTER", 0.0)
    queue.enqueue(job.id, "segment-0")
    janitor.redeliver()
    assert queue.depth() == 1
    jobs.complete(jobs.claim(job.id, PLAN, "ann"), job={"segments_total": 2, "frames_total": 20})
    Workers(janitor._workers._redis, ttl_seconds=15).heartbeat(worker("ann"))
    janitor.redeliver()
    assert queue.waiting() == {(job.id, "segment-0"), (job.id, "segment-1")}


def test_what_rq_holds_of_a_dead_worker_is_dropped(
    janitor: Janitor, queue: Queue, job: Job, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "LOST_AFTER", 0.0)
    workers = Workers(redis, ttl_seconds=15)
    for name in ("ann", "bob"):
        workers.heartbeat(worker(name))
        queue.enqueue(job.id, PLAN)
        rq_worker = WarmWorker(redis, name, on_drain=lambda: None)
        rq_worker.prepare_execution(queue.rq.jobs[0])
        rq_worker.prepare_job_execution(queue.rq.jobs[0])
        redis.lpop(queue.rq.key)
    queue.enqueue(job.id, "segment-0")
    redis.lmove(
        queue.rq.key, queue.rq.intermediate_queue_key
    )  # popped by a worker that did not live to begin it
    assert sorted(queue.held().values()) == ["", "ann", "bob"]
    workers.leave("ann")
    janitor.redeliver()
    assert list(queue.held().values()) == ["bob"] and len(redis.keys("rq:job:*")) == 2


def test_a_task_waits_for_a_worker_that_may_serve_its_model(
    janitor: Janitor, jobs: Jobs, queue: Queue, job: Job, redis: Redis
) -> None:
    """Such a worker may be of a version whose record this one cannot read."""
    jobs.release(jobs.claim(job.id, PLAN, "ann"), failed=False, needs_model="film")
    workers = Workers(redis, ttl_seconds=15)
    workers.heartbeat(worker("ann"))
    janitor.redeliver()
    assert queue.waiting() == set()
    for other in (worker("bob").model_copy(update={"models": ["dain", "film"]}), worker("eve")):
        workers.heartbeat(other)
        if other.name == "eve":
            redis.set(worker_key("eve"), "{}")
        janitor.redeliver()
        assert queue.waiting() == {(job.id, PLAN)}
        redis.delete(queue.rq.key)
        workers.leave(other.name)


def test_a_waiting_task_is_left_alone(
    janitor: Janitor, queue: Queue, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "LOST_AFTER", 0.0)
    queue.enqueue(job.id, PLAN)
    janitor.redeliver()
    janitor.redeliver()
    assert queue.depth() == 1


def test_a_job_that_is_over_keeps_only_its_result(
    janitor: Janitor, jobs: Jobs, store: Store, job: Job, tmp_path: Path
) -> None:
    for key in (f"plans/{job.id}.json", f"segments/{job.id}/0.aa.mp4", f"results/{job.id}/aa.mp4"):
        put(store, tmp_path, key)
    other = new_job_id()
    put(store, tmp_path, f"uploads/{other}")
    jobs.finish(job.id, State.FAILED, error=Problem("damaged-video", "cut"))
    janitor.clean_up()
    assert files(store) == [f"uploads/{other}", f"results/{job.id}/aa.mp4"]
    assert jobs.unclean() == []


def test_rq_forgets_what_dead_workers_had_in_hand_when_a_job_ended(
    janitor: Janitor, jobs: Jobs, queue: Queue, job: Job, redis: Redis
) -> None:
    """What a living worker has stays: RQ expects to find it there when the worker is done."""
    for task, expires_at in ((PLAN, time.time() - 1), ("segment-1", time.time() + 60)):
        queue.enqueue(job.id, task)
        [delivery] = redis.lrange(queue.rq.key, 0, -1)
        redis.delete(queue.rq.key)
        redis.zadd(queue.rq.started_job_registry.key, {delivery + b":execution": expires_at})
    jobs.finish(job.id, State.CANCELLED)
    janitor.clean_up()
    assert [key.split(b"_")[1] for key in redis.scan_iter(match="rq:job:*")] == [b"segment-1"]
    assert redis.zcard(queue.rq.started_job_registry.key) == 1


def test_an_upload_without_a_job_is_removed_after_an_hour(
    janitor: Janitor, store: Store, job: Job, tmp_path: Path
) -> None:
    old, new = f"{int((time.time() - 4000) * 1000):012x}{'0' * 16}", new_job_id()
    for orphan in (old, new):
        put(store, tmp_path, f"uploads/{orphan}")
        put(store, tmp_path, f"plans/{orphan}/aa.json")
    janitor.remove_orphans()
    assert files(store) == [*sorted([job.source, f"uploads/{new}"]), f"plans/{new}/aa.json"]


def test_an_upload_that_a_client_sent_to_the_store_is_removed_after_a_day(
    janitor: Janitor, store: Store, tmp_path: Path
) -> None:
    old, new = (f"{int((time.time() - age) * 1000):012x}{'0' * 16}" for age in (90_000, 80_000))
    for upload_id in (old, new):
        put(store, tmp_path, f"incoming/{upload_id}")
    janitor.tidy()
    assert list(store.keys("incoming/")) == [f"incoming/{new}"]


def test_parts_that_nobody_goes_on_sending_are_removed_after_a_day(
    janitor: Janitor, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages: list[float] = []
    monkeypatch.setattr(LocalStore, "sweep_parts", lambda self, age: ages.append(age) or 0)
    janitor.tidy()
    janitor.tidy()
    assert ages == [86400]


def test_what_the_store_holds_is_counted(janitor: Janitor, jobs: Jobs, store: Store, tmp_path: Path) -> None:
    assert jobs.stored() == {}
    put(store, tmp_path, "results/00/aa.mp4")
    janitor.tidy()
    assert jobs.stored() == dict.fromkeys(KINDS, 0) | {"results": store.size("results/00/aa.mp4")}


def test_what_a_late_attempt_stored_is_removed(
    janitor: Janitor, jobs: Jobs, store: Store, job: Job, tmp_path: Path
) -> None:
    """Its job was cancelled and cleaned up between its last check and its file's publication."""
    put(store, tmp_path, f"plans/{job.id}/aa.json")
    janitor.remove_orphans()
    assert store.exists(f"plans/{job.id}/aa.json")
    jobs.cancel(job.id)
    janitor.clean_up()
    put(store, tmp_path, f"plans/{job.id}/aa.json")
    janitor.remove_orphans()
    assert files(store) == []


def test_strangers_in_the_store_are_passed_over_and_said_once(
    janitor: Janitor, jobs: Jobs, store: Store, job: Job, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    root = settings.state_dir / "store"
    (root / "uploads" / "lost+found").mkdir()
    strangers = [
        "uploads/.nfs000000000001", "uploads/lost+found/3", "uploads/notes.txt", "scratch/.DS_Store", "segments",
    ]  # fmt: skip
    for name in strangers:
        (root / name).write_text("not ours")
    jobs.cancel(job.id)
    for _ in range(3):
        janitor.tidy()
        janitor.remove_orphans()
    assert not store.exists(job.source) and jobs.unclean() == []
    assert all((root / name).exists() for name in strangers)
    for name in ("uploads/.nfs000000000001", "uploads/lost+found", "uploads/notes.txt", "scratch/.DS_Store"):
        assert sum(name in message for message in caplog.messages) == 1, name


def test_a_file_that_cannot_be_removed_keeps_nothing_else_from_its_end(
    janitor: Janitor, jobs: Jobs, store: Store, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = new_job_id()
    put(store, tmp_path, f"uploads/{stuck}")
    jobs.create(stuck, source=f"uploads/{stuck}", filename="a.mp4", options=parse_options({}), input={})
    delete = store.delete

    def refuse(prefix: str) -> None:
        if stuck in prefix:
            raise PermissionError(13, "Permission denied")
        delete(prefix)

    monkeypatch.setattr(store, "delete", refuse)
    for each in (stuck, job.id):
        jobs.cancel(each)
    janitor.tidy()
    assert files(store) == [f"uploads/{stuck}"] and jobs.unclean() == [stuck]


def test_a_store_that_is_away_is_told_of_once_and_again_when_it_goes_away_again(
    janitor: Janitor,
    store: Store,
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailable("The bucket is away.")

    for call in ("keys", "bytes_under", "sweep_parts", "sweep_scratch", "delete"):
        monkeypatch.setattr(store, call, fail)
    for seconds, times in ((0, 1), (700, 1), (700, 1), (1500, 2)):
        clock[0] += seconds
        janitor.tidy()
        assert sum("The bucket is away." in message for message in caplog.messages) == times


def test_a_deleted_job_does_not_come_back_when_its_result_expires(
    janitor: Janitor, jobs: Jobs, store: Store, job: Job, redis: Redis
) -> None:
    jobs.finish(job.id, State.SUCCEEDED)
    redis.zadd(RESULTS, {job.id: time.time() - 1})
    expired = jobs.results_expired_by(time.time())
    assert expired == [job.id]
    jobs.delete(job.id)  # a client is faster
    assert not jobs.mark_expired(job.id)
    assert not redis.keys("dain:job:*") and jobs.page(DEFAULT_OWNER)[0] == []


def test_results_expire_before_records(
    janitor: Janitor, jobs: Jobs, store: Store, job: Job, redis: Redis, tmp_path: Path
) -> None:
    output = Output(
        key=f"results/{job.id}/aa.mp4", filename="a-2x.mp4", media_type="video/mp4", size_bytes=5, sha256="",
        frames=2, frame_rate="2", duration_seconds=1.0,
    )  # fmt: skip
    put(store, tmp_path, output.key)
    jobs.finish(job.id, State.SUCCEEDED, output=output)
    janitor.expire()
    assert store.exists(output.key)

    redis.zadd(RESULTS, {job.id: time.time() - 1})
    janitor.expire()
    assert not store.exists(output.key) and jobs.get(job.id).expired

    redis.zadd(FINISHED, {job.id: time.time() - 2000})
    janitor.expire()
    with pytest.raises(Problem):
        jobs.get(job.id)


def test_a_janitor_that_dies_in_a_sweep_or_takes_long_stops_no_other(
    jobs: Jobs, queue: Queue, store: Store, job: Job, redis: Redis, settings: Settings
) -> None:
    """Nor does a store that hangs keep lost tasks from being delivered again."""
    script = (
        "import sys, time\nfrom service.jobs import janitor\njanitor.INTERVAL, janitor.LOCK_SECONDS = 0.1, 0.5\n"
        "janitor.LOST_AFTER = 0\n"
        "tidy = janitor.Janitor.tidy\n"
        "janitor.Janitor.tidy = lambda self: (time.sleep(float(sys.argv[1])), tidy(self))\njanitor.main()"
    )
    environment = os.environ | {
        "DAIN_REDIS_URL": str(settings.redis_url),
        "DAIN_STATE_DIR": str(settings.state_dir),
    }

    def start(seconds: float) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", script, str(seconds)]
        return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)

    with start(600) as victim:
        until(lambda: bool(redis.keys("dain:janitor:tidy")))
        until(queue.depth)  # the job was in no queue
        victim.kill()
    assert jobs.cancel(job.id)
    with start(1.0) as next_one:
        until(lambda: not files(store))
        until(lambda: not redis.keys("dain:janitor:tidy"))
        next_one.terminate()
        _, said = next_one.communicate()
    assert next_one.returncode == 0 and '"warning"' not in said and '"error"' not in said


@pytest.mark.parametrize(("ttl", "seconds"), [(4, 2), (15, 2), (60, 8)])
def test_it_sweeps_seldom_where_workers_report_seldom(
    jobs: Jobs, queue: Queue, store: Store, redis: Redis, ttl: int, seconds: float
) -> None:
    workers = Workers(redis, ttl_seconds=ttl)
    assert Janitor(jobs, queue, workers, store, record_ttl_seconds=1).interval == seconds
