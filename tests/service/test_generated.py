"""Clients that are generated from the OpenAPI description submit, wait and fetch at a live service."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.app import create_app
from service.jobs.machine import Jobs
from service.jobs.problems import Problem
from service.jobs.records import State
from service.settings import Settings
from tests.api import RESULT, cutting_proxy

ROOT = Path(__file__).parents[2]
TYPESCRIPT = ROOT / "clients" / "typescript"


@pytest.fixture
def description(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(create_app(settings).openapi()))
    return path


@pytest.fixture
def generated(
    description: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the Python client."""
    pytest.importorskip("openapi_python_client", reason="the generator of Python clients is not installed")
    package = f"generated_{os.getpid()}"
    arguments = ["--path", str(description), "--meta", "none", "--output-path", str(tmp_path / package)]
    tools = Path(sys.executable).parent  # ruff is there
    subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning", *arguments],
        check=True,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: importlib.import_module(f"{package}.{name}" if name else package)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def test_python(
    generated: Callable[[str], Any],
    url: str,
    clip: Path,
    jobs: Jobs,
    finish: Callable[[str, bytes], None],
) -> None:
    models, types = generated("models"), generated("types")
    client = generated("").AuthenticatedClient(base_url=url, token="dain_none", verify_ssl=False)
    with client, clip.open("rb") as video:
        file = types.File(video, "clip.mp4", "video/mp4")
        form = models.Submission(file=file, target_fps="60", metadata='{"user": "42"}')
        job = generated("api.jobs.submit").sync(client=client, body=form, idempotency_key='"k"')
        assert isinstance(job, models.JobView)
        assert (job.status, job.filename, job.options.target_fps) == ("queued", "clip.mp4", "60")
        assert job.metadata.to_dict() == {"user": "42"}

        show = generated("api.jobs.show")
        threading.Timer(0.1, finish, (job.id, RESULT)).start()
        shown = show.sync(job.id, client=client, wait=60)
        assert shown.status == "succeeded"
        page = generated("api.jobs.list_jobs").sync(
            client=client, status=models.ListJobsStatusType0.SUCCEEDED
        )
        assert [listed.id for listed in page.jobs] == [job.id] and page.next_cursor is None
        etag = show.sync_detailed(job.id, client=client).headers["ETag"]
        assert show.sync_detailed(job.id, client=client, if_none_match=etag).status_code == 304

        fetch = generated("api.jobs.fetch_result")
        assert fetch.sync(job.id, client=client).payload.read() == RESULT
        assert fetch.sync(job.id, client=client, range_="bytes=0-9").payload.read() == RESULT[:10]

        refused = show.sync_detailed("0" * 28, client=client)
        assert refused.status_code == 404 and isinstance(refused.parsed, models.ProblemDocument)
        assert refused.parsed.type_ == "urn:dain:problem:job-not-found"


def tools() -> Path:
    found = TYPESCRIPT / "node_modules" / ".bin"
    if not found.exists():
        pytest.skip("`make typescript` installs what the TypeScript client is made and tested with")
    return found


def test_the_types_of_the_typescript_client_are_those_of_the_api(description: Path, tmp_path: Path) -> None:
    subprocess.run([tools() / "openapi-typescript", description, "-o", tmp_path / "api.ts"], check=True)
    ours = TYPESCRIPT / "src" / "api.ts"
    assert (tmp_path / "api.ts").read_text() == ours.read_text(), "`make typescript-types` writes it anew"


def test_the_typescript_client(
    url: str, clip: Path, tmp_path: Path, jobs: Jobs, finish: Callable[[str, bytes], None]
) -> None:
    tools()
    (tmp_path / "result").write_bytes(RESULT)
    stopped = threading.Event()

    def work() -> None:
        """Ends the jobs, each as its reference says."""
        while not stopped.wait(0.02):
            for job in jobs.page("default", State.QUEUED)[0]:
                if job.reference == "good":
                    finish(job.id, RESULT)
                elif job.reference == "bad":
                    jobs.finish(job.id, State.FAILED, error=Problem("damaged-video", "It breaks off."))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with (
            cutting_proxy(url, up=[6_000_000], down=[None, 100]) as up,
            cutting_proxy(url, up=[], down=[150_000, 150_000]) as down,
        ):
            places = {"CLIP": str(clip), "RESULT": str(tmp_path / "result")}
            environment = os.environ | places | {"DAIN_URL": url, "CUTTING_UP": up, "CUTTING_DOWN": down}
            done = subprocess.run(
                ["npm", "test"], cwd=TYPESCRIPT, env=environment, capture_output=True, text=True, timeout=120
            )
    finally:
        stopped.set()
        worker.join()
    assert done.returncode == 0 and "# skipped 0" in done.stdout, done.stdout + done.stderr
