"""Which FFmpeg works here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.media import ffmpeg
from worker.media.errors import MachineError


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
    for gone in (str(tmp_path / "gone"), "gone"):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", gone)
        with pytest.raises(
            MachineError, match=f"no FFmpeg here that can be run at .*{gone}.* IMAGEIO_FFMPEG_EXE"
        ):
            find()


def test_a_process_keeps_the_lower_limits_that_it_comes_with() -> None:
    script = (
        "import resource, sys; from worker.media import ffmpeg; "
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 8 << 30)); "
        "process = ffmpeg.Process([ffmpeg.binary(), '-f', 'lavfi', '-i', 'color', '-f', 'null', '-']); "
        "print(*resource.prlimit(process._popen.pid, resource.RLIMIT_AS)); process.close()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(4 << 30), str(8 << 30)]


def test_a_process_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def fail(pid: int, kind: int, limit: int) -> None:
        started.append(pid)
        raise PermissionError

    monkeypatch.setattr(ffmpeg, "_limit", fail)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionError):
        ffmpeg.Process(["sleep", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not Path(f"/proc/{started[0]}").exists()


def test_a_pipe_that_the_kernel_does_not_enlarge_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ffmpeg, "PIPE_BYTES", -1
    )  # which no kernel grants, as it grants none to a user with many
    with ffmpeg.Process(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"frames")
        process.stdin.close()
        assert process.stdout.read() == b"frames"
