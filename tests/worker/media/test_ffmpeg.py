"""Which FFmpeg works here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.media import ffmpeg


def test_the_tested_ffmpeg_is_taken_and_not_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "ffmpeg"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    find = ffmpeg.binary.__wrapped__  # which remembers nothing
    assert "imageio_ffmpeg" in find()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(other))
    assert find() == str(other)
