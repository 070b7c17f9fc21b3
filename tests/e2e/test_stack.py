"""`dain up` and a clip: through HTTP and back, through the worst that can happen to each process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import httpx
import pytest

from service.client import Job
from tests.stack import Stack, start, stop


def timestamps(path: Path) -> list[Fraction]:
    with av.open(str(path)) as video:
        return [frame.pts * frame.time_base for frame in video.decode(video=0)]


def submit_and_wait(stack: Stack, clip: Path, **options: str) -> Job:
    with stack.client() as client:
        job = client.wait(client.submit(clip, options).id, interval=0.1)
    return job


@pytest.fixture(scope="module")
def undisturbed(stack: Stack, small_clip: Path) -> Job:
    return submit_and_wait(stack, small_clip)


def running_segment(stack: Stack, job_id: str) -> None:
    """Return once a segment of the job is under way."""

    def under_way() -> bool:
        worker = httpx.get(f"{stack.url}/workers", timeout=60).json()
        return any(w["job"] == job_id and (w["task"] or "").startswith("segment") for w in worker)

    stack.until(under_way, "a segment")


def test_twice_the_frames_at_exact_times_with_the_sound(
    stack: Stack, small_clip: Path, undisturbed: Job, tmp_path: Path
) -> None:
    with stack.client() as client:
        client.download(undisturbed.id, tmp_path / "out.mp4")
    assert timestamps(tmp_path / "out.mp4") == [Fraction(n, 48) for n in range(24)]
    with av.open(str(tmp_path / "out.mp4")) as result, av.open(str(small_clip)) as source:
        assert result.streams.audio[0].codec_context.name == "aac"
        sound, original = list(result.demux(audio=0)), list(source.demux(audio=0))
        assert [bytes(packet) for packet in sound] == [bytes(packet) for packet in original]
    assert undisturbed.progress.frames_done == 24 and undisturbed.metrics["segments_total"] == 5
    assert undisturbed.output.frame_rate == "48"


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"factor": "3"}, [Fraction(n, 72) for n in range(36)]),
        ({"target_fps": "60"}, [Fraction(n, 60) for n in range(30)]),
        ({"speed": "1/3"}, [Fraction(n, 24) for n in range(36)]),
    ],
)
def test_frame_count_and_times_are_exact(
    stack: Stack, small_clip: Path, tmp_path: Path, options: dict[str, str], times: list[Fraction]
) -> None:
    job = submit_and_wait(stack, small_clip, **options)
    with stack.client() as client:
        client.download(job.id, tmp_path / "out.mp4")
    assert timestamps(tmp_path / "out.mp4") == times


@pytest.mark.parametrize("program", ["worker", "api", "redis", "janitor"])
def test_a_killed_process_costs_nothing_but_time(
    stack: Stack, small_clip: Path, undisturbed: Job, program: str
) -> None:
    with stack.client() as client:
        job = client.submit(small_clip, {})
        running_segment(stack, job.id)
        [pid] = stack.pids(program)
        os.kill(pid, signal.SIGKILL)
        job = client.wait(job.id, interval=0.2)
    assert job.output.sha256 == undisturbed.output.sha256
    stack.until(stack.ready, f"recovery of {program}")
    assert stack.pids(program) != [pid]
    # A worker has two tasks at most: the end of one beside the next.
    assert job.metrics["attempts_failed"] <= (2 if program == "worker" else 1)


def test_a_cancelled_job_stops_at_once_and_leaves_nothing(stack: Stack, small_clip: Path) -> None:
    with stack.client() as client:
        job = client.submit(small_clip, {"factor": "16"})
        running_segment(stack, job.id)
        cancelled = client.cancel(job.id)
        assert cancelled.status == "cancelled"
        stack.until(lambda: not any(w.job == job.id for w in client.workers()), "stopping")
        assert httpx.get(f"{stack.url}/jobs/{job.id}/result", timeout=60).status_code == 409
    store = stack.state_dir / "store"
    stack.until(lambda: not [p for p in store.rglob("*") if job.id in str(p)], "cleaning up")


def test_bad_files_are_refused_and_the_worker_lives(stack: Stack, tmp_path: Path) -> None:
    scratch = stack.state_dir / "store" / "scratch"
    workers, folders = stack.pids("worker"), set(scratch.iterdir())
    for name, content in {
        "empty.mp4": b"",
        "text.mp4": b"not a video\n" * 100,
        "list.mp4": b"#EXTM3U\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with (tmp_path / name).open("rb") as file:
            answer = httpx.post(f"{stack.url}/jobs", files={"file": (name, file, "video/mp4")}, timeout=60)
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == "application/problem+json" and answer.json()["detail"]
    assert stack.pids("worker") == workers
    stack.until(lambda: set(scratch.iterdir()) <= folders, "cleaning up")


@pytest.mark.parametrize(
    ("options", "facts"),
    [([], "24 frames at 48 fps"), (["--speed", "0.5", "--model", "dain-lite"], "24 frames at 24 fps")],
)
def test_the_command_line_sends_and_fetches(
    stack: Stack, small_clip: Path, tmp_path: Path, options: list[str], facts: str
) -> None:
    out = tmp_path / "out.mp4"
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "submit",
        str(small_clip),
        "-o",
        str(out),
        "--url",
        stack.url,
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert facts in done.stdout and len(timestamps(out)) == 24


def test_a_second_service_on_the_same_state_is_refused(stack: Stack) -> None:
    command = [sys.executable, "-m", "service.cli", "up", "--state-dir", str(stack.state_dir), "--port", "0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0 and "running" in refused.stderr


def test_what_was_accepted_survives_a_restart(small_clip: Path, tmp_path: Path) -> None:
    stack = start(tmp_path)
    with stack.client() as client:
        job = client.submit(small_clip, {"factor": "4"})
        running_segment(stack, job.id)
    stop(stack)
    stack = start(tmp_path)
    try:
        with stack.client() as client:
            job = client.wait(job.id, interval=0.2)
        assert job.metrics["attempts_failed"] == 0  # the worker gave its segment back
    finally:
        stop(stack)
