"""Whatever stands still ends its worker, and what only takes long or waits does not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from redis import Redis

from service.jobs.janitor import Janitor
from service.jobs.machine import Jobs
from service.jobs.names import PLAN, new_job_id
from service.jobs.options import Options
from service.jobs.queue import Queue
from service.jobs.records import State
from service.jobs.workers import Workers
from service.settings import Settings
from service.store import open_store
from tests.api import away, until
from worker import watchdog as watchdog_module
from worker.media.sandbox import probe
from worker.watchdog import HUNG, Watch, Watchdog

ROOT = Path(__file__).parents[2]
STALL_SECONDS = 2


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"segment_frames": 8, "stall_seconds": STALL_SECONDS, "worker_ttl_seconds": 3}
    )


@pytest.fixture
def job_id(redis: Redis, settings: Settings, make_clip: Callable[..., Path], tmp_path: Path) -> str:
    """An accepted job whose times are known only from decoding, so that its plan decodes too."""
    clip, job_id = make_clip("packed.avi", "-c:v", "mpeg4", "-bf", "2"), new_job_id()
    copy = tmp_path / "upload"
    copy.write_bytes(clip.read_bytes())
    open_store(settings.store_url).put(copy, f"uploads/{job_id}")
    Jobs.from_settings(redis, settings).create(
        job_id,
        source=f"uploads/{job_id}",
        filename="clip.avi",
        options=Options(),
        input=probe(clip).as_dict(),
    )
    Queue(redis).enqueue(job_id, PLAN)
    return job_id


@contextmanager
def worker(settings: Settings, what_stands_still: str) -> Iterator[subprocess.Popen[str]]:
    names = {
        "redis_url",
        "state_dir",
        "min_free_bytes",
        "segment_frames",
        "stall_seconds",
        "worker_ttl_seconds",
    }
    chosen = {
        f"DAIN_{name.upper()}": str(value) for name, value in settings.model_dump(include=names).items()
    }
    command = [sys.executable, "-m", "tests.worker.standing_worker", what_stands_still]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | chosen, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_on(folder: Path) -> list[psutil.Process]:
    """FFmpeg processes that have files of this folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or [])
        and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize("what", ["prober", "times", "decoder", "network", "sink", "encoder", "joiner"])
def test_a_worker_in_which_something_stands_still_ends(
    redis: Redis, settings: Settings, job_id: str, what: str
) -> None:
    with worker(settings, what) as process:
        _, messages = process.communicate(timeout=120)
    assert process.returncode == HUNG, messages
    assert f"of job {job_id} made no progress for {STALL_SECONDS} s" in messages
    until(lambda: not processes_on(settings.state_dir))
    assert Jobs.from_settings(redis, settings).get(job_id).status is not State.FAILED


def test_the_task_that_stood_still_is_done_by_the_next_worker(
    redis: Redis, settings: Settings, job_id: str
) -> None:
    with worker(settings, "decoder") as process:
        process.communicate(timeout=120)
    jobs, queue, store = Jobs.from_settings(redis, settings), Queue(redis), open_store(settings.store_url)
    janitor = Janitor(jobs, queue, Workers(redis, ttl_seconds=3), store, record_ttl_seconds=1000)

    def ended() -> bool:
        janitor.redeliver()
        return jobs.get(job_id).status.terminal

    with worker(settings, "nothing") as process:
        until(ended)
        process.terminate()
        _, messages = process.communicate(timeout=120)
    job = jobs.get(job_id)
    assert job.status is State.SUCCEEDED and job.metrics.attempts_failed >= 1, messages
    assert process.returncode == 0, messages


# -- the watch itself ---------------------------------------------------------------------------------


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set where a watchdog would end this process; the watchdog itself ends instead."""
    event = threading.Event()

    def end(status: int) -> None:
        assert status == HUNG
        event.set()
        raise SystemExit

    monkeypatch.setattr(watchdog_module.os, "_exit", end)
    monkeypatch.setattr(watchdog_module, "kill_children", lambda: None)
    monkeypatch.setattr(watchdog_module, "LAST_WORDS_SECONDS", 1000.0)
    return event


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_task_that_stands_still_is_enough_though_another_is_well(ended: threading.Event) -> None:
    watchdog = Watchdog(stall_seconds=0.2)
    with watchdog.watch("well") as well, watchdog.watch("hung"):
        watchdog.start()
        while not ended.wait(0.01):
            well.progressed()
        watchdog.join()


def test_only_ticks_without_progress_count() -> None:
    watch = Watch("task")
    assert [watch.tick() for _ in range(3)] == [1, 2, 3]
    watch.progressed()
    assert watch.tick() == 1
    with watch.paused():
        assert [watch.tick() for _ in range(3)] == [0, 0, 0]
    assert watch.tick() == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_comes_of_killed_children_is_no_outcome(
    ended: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchdog, outcomes = Watchdog(stall_seconds=0.1), []

    def settle() -> None:
        watchdog.hold()
        outcomes.append("failed")

    def kill_children() -> None:
        threading.Thread(target=settle, daemon=True).start()

    monkeypatch.setattr(watchdog_module, "kill_children", kill_children)
    watchdog.start()
    with watchdog.watch("hung"):
        assert ended.wait(30)
    watchdog.join()
    assert not outcomes


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_is_over_is_watched_no_more(ended: threading.Event) -> None:
    watchdog = Watchdog(stall_seconds=0.1)
    with watchdog.watch("over"):
        pass
    watchdog.start()
    assert not ended.wait(0.5)
    with watchdog.watch("hung"):
        assert ended.wait(30)
    watchdog.join()


def test_a_log_that_stands_still_too_keeps_no_worker_alive() -> None:
    script = """
import logging, threading
from worker.watchdog import Watchdog
class Stuck(logging.Handler):
    def emit(self, record):
        threading.Event().wait()
logging.getLogger().addHandler(Stuck())
watchdog = Watchdog(stall_seconds=0.1)
watchdog.start()
with watchdog.watch("hung"):
    threading.Event().wait()
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60).returncode == HUNG


# -- the end ------------------------------------------------------------------------------------------


def test_a_worker_that_is_told_to_stop_while_redis_is_away_ends_in_order(
    redis: Redis, settings: Settings
) -> None:
    """As where everything is stopped at once."""
    with worker(settings, "nothing") as process:
        until(lambda: redis.smembers("rq:workers"))
        with away(redis, settings):
            process.terminate()
            _, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
