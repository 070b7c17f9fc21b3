"""One file of GPU tests at a time: their memory plans count on what is free on the GPU."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def alone_on_the_gpu() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / "dain-gpu-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
