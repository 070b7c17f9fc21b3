"""Each check of FFmpeg, where it finds fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.doctor.findings import Level
from worker.doctor import media
from worker.media import ffmpeg


@pytest.fixture(autouse=True)
def another_ffmpeg() -> Iterator[None]:
    """Lets a test name its ffmpeg."""
    ffmpeg.binary.cache_clear()
    yield
    ffmpeg.binary.cache_clear()


def test_all_is_well_here() -> None:
    assert [next(iter(check())).level for check in media.CHECKS.values()] == [Level.OK] * 3


def test_no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    for check in (media.program, media.encoders):
        (found,) = check()
        assert found.level is Level.ERROR and "imageio-ffmpeg" in found.fix


def test_an_old_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "ffmpeg"
    old.write_text("#!/bin/sh\necho ffmpeg version n4.4.2 Copyright\n")
    old.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(old))
    (found,) = media.program()
    assert found.level is Level.ERROR and "n4.4.2 is too old" in found.says


def test_an_ffmpeg_that_lacks_encoders() -> None:
    (none,) = media.judge_encoders(["vp9"])
    assert none.level is Level.ERROR and "libx264" in none.says
    here = [name for name in media.CODECS if not media.is_gpu(name)]
    (some,) = media.judge_encoders([name for name in here if name != "av1"])
    assert some.level is Level.WARNING and "an encoder of av1" in some.says


def test_a_folder_in_which_no_clip_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho No space left on device >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    (found,) = media.clip()
    assert found.level is Level.ERROR and "No space left on device" in found.says and "TMPDIR" in found.fix


def test_a_kernel_that_cannot_take_rights_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "landlock_version", lambda: 0)
    (found,) = media.clip()
    assert found.level is Level.WARNING and "no Landlock" in found.says
