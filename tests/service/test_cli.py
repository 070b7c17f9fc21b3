"""`dain submit` against the real API: where the result goes, and what is said if it cannot go there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api import until

CONTENT = b"a video"

Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def submit(url: str, http: httpx.Client, clip: Path, finish: Callable[[str, bytes], None]) -> Submit:
    """Sends the clip with such options; the job ends as soon as it is there."""

    def queued() -> list[str]:
        return [job["id"] for job in http.get("/jobs", params={"status": "queued"}).json()["jobs"]]

    def run(*options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.cli", "submit", str(clip), "--url", url, *map(str, options)]
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(subprocess.run, command, capture_output=True, text=True, timeout=60)
            until(lambda: sent.done() or queued())
            for job_id in queued():
                finish(job_id, CONTENT)
            return sent.result()

    return run


def test_the_result_goes_where_it_is_wanted(submit: Submit, clip: Path, tmp_path: Path) -> None:
    beside = clip.with_name("café-2x.mp4")
    for options, path in (
        (("-o", tmp_path / "own.mp4"), tmp_path / "own.mp4"),
        (("-o", tmp_path), tmp_path / "café-2x.mp4"),
        ((), beside),
    ):
        done = submit(*options)
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == CONTENT and f"{path}: 24 frames" in done.stdout
    beside.unlink()


def test_without_a_folder_nothing_is_sent(submit: Submit, http: httpx.Client, tmp_path: Path) -> None:
    done = submit("-o", tmp_path / "absent" / "out.mp4")
    assert done.returncode == 2 and "there is no folder" in done.stderr
    assert http.get("/jobs").json()["jobs"] == []


def test_a_result_that_cannot_be_written_is_still_there(
    submit: Submit, http: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "out.mp4.part").mkdir()
    done = submit("-o", tmp_path / "out.mp4")
    assert done.returncode == 1 and "cannot be written: Is a directory" in done.stderr
    [job] = http.get("/jobs").json()["jobs"]
    assert f"/jobs/{job['id']}/result" in done.stderr
    assert http.get(f"/jobs/{job['id']}/result").content == CONTENT
