"""The calls of curl that README and docs show, sent as they stand."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from service.jobs.records import Job
from service.settings import Settings
from tests.receiver import SECRET
from tests.shown import blocks

#: What a call has that is cut, or needs a site, a bucket or an upload that a test has not.
LACKING = ("…", "https://example.com/clip.mp4", "size_bytes=", "curl -T ", "$id", "upload=ID")


def script(block: list[str]) -> str:
    """The calls of a block."""
    lines = "\n".join(block).replace("\\\n", " ").splitlines()
    called = [line for line in lines if "curl" in line.partition(" #")[0]]
    left_out = ("dain ", "$ ", "until ")  # the last has a test of its own
    return "\n".join(
        line for line in called if not line.startswith(left_out) and not any(mark in line for mark in LACKING)
    )


SHOWN = [pytest.param(calls, id=place) for place, block in blocks() if (calls := script(block))]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_secret": SECRET})


def test_most_pages_with_calls_are_tried() -> None:
    assert len(SHOWN) >= 10


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl or jq is not installed")
@pytest.mark.parametrize("calls", SHOWN)
def test_the_service_takes_what_is_shown(
    calls: str, url: str, finished: Job, clip: Path, tmp_path: Path
) -> None:
    for name in ("clip.mp4", "film.mp4"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "shots").mkdir()
    for name in ("logo.png", "shots/1.png", "shots/2.png"):
        Image.new("L", (96, 64)).save(tmp_path / name)
    shutil.make_archive(str(tmp_path / "shots"), "zip", tmp_path / "shots")
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nno-proxy *\n")
    calls = calls.replace("http://127.0.0.1:8000", url).replace("/jobs/ID", f"/jobs/{finished.id}")
    environment = {**os.environ, "CURL_HOME": str(tmp_path), "DAIN_URL": url, "DAIN_TOKEN": "dain_none"}
    done = subprocess.run(
        ["sh", "-ec", calls], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
