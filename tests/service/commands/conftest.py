from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from click.testing import CliRunner, Result

from service import cli
from service.commands import following

CONTENT = b"a video"

Dain = Callable[..., Result]


@pytest.fixture
def dain(url: str, monkeypatch: pytest.MonkeyPatch) -> Dain:
    """Runs `dain` with these arguments, in this process; it speaks to the test's service."""
    monkeypatch.setenv("DAIN_URL", url)
    monkeypatch.setattr(following, "QUICKEST", 0.02)

    def run(*words: object) -> Result:
        return CliRunner().invoke(cli.cli, list(map(str, words)), prog_name="dain")

    return run


@pytest.fixture
def working(http: httpx.Client, finish: Callable[[str, bytes], None]) -> Iterator[None]:
    """Each job ends with `CONTENT` as soon as it is there."""
    with again_and_again(lambda: [finish(job_id, CONTENT) for job_id in queued(http)]):
        yield


def queued(http: httpx.Client) -> list[str]:
    """The ids of the jobs that wait, the oldest first."""
    return [job["id"] for job in http.get("/jobs", params={"status": "queued"}).json()["jobs"]][::-1]


@contextmanager
def again_and_again(step: Callable[[], object]) -> Iterator[None]:
    """Does something every now and then meanwhile."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
