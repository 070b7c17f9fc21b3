from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.api.options import parse_options
from service.jobs.machine import Jobs
from service.jobs.names import new_job_id
from service.jobs.records import Job
from tests.api import RESULT


@pytest.fixture
def make_job(jobs: Jobs) -> Callable[[], Job]:
    def make() -> Job:
        job_id = new_job_id()
        facts = {"width": 96, "height": 64}
        return jobs.create(
            job_id, source=f"uploads/{job_id}", filename="clip.mp4", options=parse_options({}), input=facts
        )

    return make


@pytest.fixture
def job(make_job: Callable[[], Job]) -> Job:
    return make_job()


@pytest.fixture
def finished(job: Job, jobs: Jobs, finish: Callable[[str, bytes], None]) -> Job:
    """A job whose result is in the store."""
    finish(job.id, RESULT)
    return jobs.get(job.id)


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file that takes a while to look into: 200,000 frames of 2x2."""
    path = tmp_path_factory.mktemp("heavy") / "heavy.y4m"
    path.write_bytes(b"YUV4MPEG2 W2 H2 F1000:1 C420\n" + (b"FRAME\n" + b"\x80" * 6) * 200_000)
    return path
