from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack import Stack, start, stop


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One service that the tests share; whatever they break comes back by itself."""
    running = start(tmp_path_factory.mktemp("stack"))
    yield running
    stop(running)


@pytest.fixture(scope="session")
def small_clip(make_clip: Callable[..., Path]) -> Path:
    """12 frames of 64x64, 24/s, with a tone: a few tenths of a second of network time each on a CPU."""
    picture, sound = "testsrc2=size=64x64:rate=24:duration=0.5", "sine=frequency=440:duration=0.5"
    return make_clip("small.mp4", "-c:a", "aac", source=f"{picture}[out0];{sound}[out1]")
