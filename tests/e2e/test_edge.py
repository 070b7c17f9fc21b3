"""`dain edge`: a real video within a bound of memory that a control group enforces, in few processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from service.client import JobFailed
from tests.stack import Stack, start, stop

MEMORY = 2 * 2**30


@pytest.fixture(scope="module")
def group() -> Iterator[Path | None]:
    """A control group of so much memory; None where this user may make none."""
    root = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes"
    if not root.is_dir():
        root, limit = Path("/sys/fs/cgroup"), "memory.max"
    made = root / f"dain-edge-{os.getpid()}"
    try:
        made.mkdir()
        (made / limit).write_text(str(MEMORY))
    except OSError:
        with suppress(OSError):
            made.rmdir()
        yield None
        return
    yield made
    made.rmdir()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, group: Path | None) -> Iterator[Stack]:
    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    folder = tmp_path_factory.mktemp("edge")
    running = start(folder, "edge", "--memory", str(MEMORY), before=join, DAIN_MAX_ATTEMPTS="2")
    yield running
    stop(running)


def killed(group: Path) -> int:
    """How many processes of the group were ended for want of memory."""
    names = ("memory.oom_control", "memory.events")
    text = "".join((group / name).read_text() for name in names if (group / name).exists())
    counts = dict(line.split() for line in text.splitlines())
    return int(counts["oom_kill"])


def test_a_video_within_the_bound(edge: Stack, group: Path | None, small_clip: Path) -> None:
    with edge.client() as client:
        job = client.wait(client.submit(small_clip, {}).id, interval=0.1)
        [worker] = client.workers()
    assert job.output.frames == 24 and worker.model == "dain-lite"
    if group is None:
        pytest.skip("the video is made; this user may make no control group, so no memory was withheld")
    assert killed(group) == 0


def test_a_frame_that_is_too_large_fails_its_job_and_names_what_is_enough(
    edge: Stack, make_clip: Callable[..., Path]
) -> None:
    workers = edge.pids("worker")
    large = make_clip("large.mp4", source="testsrc2=size=2560x1440:rate=24:duration=0.08")
    with edge.client() as client, pytest.raises(JobFailed) as failed:
        client.wait(client.submit(large, {}).id, interval=0.1)
    assert failed.value.slug == "limit-exceeded" and "2560x1440 needs about" in str(failed.value)
    assert "With `dain edge`, the least that is enough is --memory" in str(failed.value)
    assert edge.pids("worker") == workers


def test_the_api_and_the_janitor_are_one_process_that_comes_back(edge: Stack) -> None:
    assert edge.pids("janitor") == edge.pids("webhooks") == edge.pids("api") == []
    [pid] = edge.pids("together")
    os.kill(pid, signal.SIGKILL)
    edge.until(lambda: edge.pids("together") not in ([], [pid]) and edge.ready(), "recovery")


def test_what_a_dead_worker_held_is_done_by_the_next(edge: Stack, small_clip: Path) -> None:
    with edge.client() as client:
        job = client.submit(small_clip, {})
        edge.until(lambda: any(worker.job == job.id for worker in client.workers()), "a task")
        [pid] = edge.pids("worker")
        os.kill(pid, signal.SIGKILL)
        job = client.wait(job.id, interval=0.2)
