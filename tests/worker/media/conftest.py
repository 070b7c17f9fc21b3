"""What several tests of files ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.media.errors import MediaError
from worker.media.facts import Limits
from worker.media.sandbox import probe
from worker.media.times import frame_times

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


def refused(path: Path, limits: Limits | None = None) -> str:
    """The slug of the error; its detail must be sentences, and say what to do."""
    with pytest.raises(MediaError) as caught:
        probe(path, limits or Limits())
        frame_times(path)
    assert caught.value.detail.endswith(".")
    assert caught.value.detail.count(". ") >= 1
    return caught.value.slug
