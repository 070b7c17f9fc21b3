"""The examples of docs/clients.md, each run as its first lines say, against a live service."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.jobs.machine import Jobs
from service.jobs.problems import Problem
from service.jobs.records import State
from service.settings import Settings
from tests.api import RESULT, until
from tests.receiver import SECRET

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
TYPESCRIPT = ROOT / "clients" / "typescript"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed = {"webhook_secret": SECRET, "egress_allow": "127.0.0.1"}
    return Settings(**{**settings.model_dump(), **changed})


@pytest.fixture
def environment(url: str, tmp_path: Path) -> dict[str, str]:
    """The client is installed as `dain_client`, and as `dain-client` for Node."""
    (tmp_path / "lib" / "node_modules").mkdir(parents=True)
    (tmp_path / "lib" / "dain_client").symlink_to(ROOT / "service" / "client")
    (tmp_path / "lib" / "node_modules" / "dain-client").symlink_to(TYPESCRIPT)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'lib'}", "DAIN_URL": url, "no_proxy": "*"}


@pytest.fixture
def worker(jobs: Jobs, finish: Callable[[str, bytes], None]) -> Iterator[None]:
    """Ends each job well, but those of videos that are named bad or stopped."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.02):
            for job in jobs.page("default", State.QUEUED)[0]:
                if job.filename.startswith("bad"):
                    jobs.finish(job.id, State.FAILED, error=Problem("damaged-video", "It breaks off."))
                elif job.filename.startswith("stopped"):
                    jobs.cancel(job.id)
                else:
                    finish(job.id, RESULT)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stopped.set()
    thread.join()


def command(name: str, tmp_path: Path) -> list[str]:
    """What runs an example; skips where this machine cannot."""
    path = EXAMPLES / name
    program = {".sh": "sh", ".py": sys.executable, ".mjs": "node"}[path.suffix]
    needed = "curl" if path.suffix == ".sh" else program
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed")
    if path.suffix != ".mjs":
        return [program, str(path)]
    if not (TYPESCRIPT / "dist" / "index.js").exists():
        pytest.skip("`make typescript` builds the TypeScript client")
    return [program, shutil.copy(path, tmp_path / "lib")]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", ["submit.sh", "submit.py", "submit.mjs"])
def test_one_video(name: str, environment: dict[str, str], clip: Path, tmp_path: Path) -> None:
    run = command(name, tmp_path)
    done = subprocess.run([*run, clip, tmp_path / "out.mp4"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out.mp4").read_bytes() == RESULT
    bad = shutil.copy(clip, tmp_path / "bad.mp4")
    done = subprocess.run([*run, bad, tmp_path / "none.mp4"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "It breaks off." in done.stderr
    assert not (tmp_path / "none.mp4").exists()


@pytest.mark.usefixtures("worker")
def test_a_folder_and_again(environment: dict[str, str], clip: Path, tmp_path: Path, jobs: Jobs) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "notes.txt").write_text("no video")
    for name in ("a.mp4", "b.MP4", "bad.mp4", "stopped.mp4"):
        shutil.copy(clip, folder / name)
    run = [*command("batch.py", tmp_path), folder, tmp_path / "out"]
    for _ in range(2):
        done = subprocess.run(run, env=environment, capture_output=True, text=True)
        bad, stopped = sorted(done.stderr.splitlines())
        assert done.returncode == 1 and bad == "bad.mp4: It breaks off."
        assert stopped.startswith("stopped.mp4: Job ") and stopped.endswith(" was cancelled.")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a-60fps.mp4", "b-60fps.mp4"}
    assert len(jobs.page("default")[0]) == 4  # the second run sent no job


@pytest.mark.usefixtures("worker")
def test_a_receiver_of_webhooks(
    environment: dict[str, str], settings: Settings, clip: Path, tmp_path: Path
) -> None:
    assert len((EXAMPLES / "webhook.py").read_text().splitlines()) <= 40
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    results = tmp_path / "results"
    results.mkdir()
    own = environment | {"DAIN_WEBHOOK_SECRET": SECRET, "RESULTS": str(results)}
    senders = os.environ | {
        "DAIN_REDIS_URL": settings.require_redis_url,
        "DAIN_STATE_DIR": str(settings.state_dir),
        "DAIN_WEBHOOK_SECRET": SECRET,
        "DAIN_EGRESS_ALLOW": "127.0.0.1",
    }
    uvicorn = [sys.executable, "-m", "uvicorn", "webhook:app", "--port", str(port)]
    sender = [sys.executable, "-m", "service.webhooks"]
    processes = [subprocess.Popen(uvicorn, cwd=EXAMPLES, env=own), subprocess.Popen(sender, env=senders)]
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/dain"))
        assert httpx.post(f"http://127.0.0.1:{port}/dain", json={"type": "job.succeeded"}).status_code == 401
        with Client(environment["DAIN_URL"]) as client:
            job = client.submit(clip, {"webhook_url": f"http://127.0.0.1:{port}/dain"})
        until((results / f"{job.id}.mp4").exists)
        assert (results / f"{job.id}.mp4").read_bytes() == RESULT
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 405
    except httpx.TransportError:
        return False
