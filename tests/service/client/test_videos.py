"""What is given as a video is sent whole, and as often as it has to be."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.client import Client, retries
from service.client.videos import Source, Video
from service.jobs.machine import Jobs
from service.store import Store
from tests.api import cutting_proxy


def pipe_of(content: bytes) -> Video:
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as file:
            file.write(content)

    threading.Thread(target=write).start()
    return open(reading, "rb")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (str, "clip.mp4"),
        (Path, "clip.mp4"),
        (lambda path: path.open("rb"), "clip.mp4"),
        (Path.read_bytes, "video"),
        (lambda path: io.BytesIO(path.read_bytes()), "video"),
        (lambda path: pipe_of(path.read_bytes()), "video"),
        (lambda path: iter([path.read_bytes()[:1000], path.read_bytes()[1000:]]), "video"),
    ],
    ids=["text", "path", "file", "bytes", "memory", "pipe", "pieces"],
)
def test_every_kind_is_sent_again_over_a_connection_that_breaks(
    given: Callable[[Path], Any],
    name: str,
    url: str,
    clip: Path,
    jobs: Jobs,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.1)
    video, sent = given(clip), list[tuple[int, int]]()
    with cutting_proxy(url, up=[2000], down=[]) as proxy, Client(proxy) as client:
        job = client.submit(video, on_progress=lambda *bytes_sent: sent.append(bytes_sent))
    assert job.filename == name
    with store.fetch(jobs.get(job.id).source) as upload:
        assert upload.read_bytes() == clip.read_bytes()
    assert sent[-1] == (clip.stat().st_size, clip.stat().st_size) and len(sent) > 1
    if hasattr(video, "close"):
        assert not video.closed
        video.close()


def test_a_file_that_becomes_shorter_is_no_endless_upload(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(100))
    with Source(path, "other.mp4") as source:
        assert source.read(90, 50) == bytes(10) and source.name == "other.mp4"
        os.truncate(path, 50)
        with pytest.raises(OSError, match="became shorter"):
            source.read(40, 50)
