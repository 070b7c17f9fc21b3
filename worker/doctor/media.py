"""Checks of reading and writing video: FFmpeg, its encoders, and a clip on its whole way."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from service.doctor.findings import Checks, Finding, error, ok, warning
from service.jobs.formats import CODECS, is_gpu
from worker.media import encode, ffmpeg, sandbox
from worker.media.confinement import landlock_version
from worker.media.errors import MediaError

REINSTALL = "Install the package imageio-ffmpeg anew, or name another ffmpeg in IMAGEIO_FFMPEG_EXE."
OLDEST = 5.1  # earlier ones put the sound of transport streams too early


def program() -> Iterator[Finding]:
    try:
        path = ffmpeg.binary()
        told = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (MediaError, OSError, subprocess.SubprocessError) as failure:
        yield error("ffmpeg", f"{str(failure).splitlines()[0].partition('. ')[0].rstrip('.')}.", REINSTALL)
        return
    name = " ".join(told.split()[:3])
    found = re.match(r"ffmpeg version n?(\d+\.\d+)", told)
    if found and float(found[1]) < OLDEST:
        yield error(
            "ffmpeg", f"{name} is too old: {OLDEST} is the oldest that keeps sound in its place.", REINSTALL
        )
    else:
        yield ok("ffmpeg", f"{name}, {path}.")


def encoders() -> Iterator[Finding]:
    try:
        there = encode.codecs(has_gpu=torch.cuda.is_available())
    except (MediaError, OSError) as failure:
        yield error(
            "encoders", f"FFmpeg does not say what it encodes: {str(failure).partition('. ')[0]}.", REINSTALL
        )
        return
    yield from judge_encoders(there)


def judge_encoders(there: list[str]) -> Iterator[Finding]:
    """Whether all codecs of results can be encoded; the GPU's own are a matter of what GPU there is."""
    missing = [name for name in CODECS if name not in there and not is_gpu(name)]
    on_gpu = [name for name in there if is_gpu(name)]
    if "h264" in missing:
        yield error("encoders", "FFmpeg has no libx264, which results are encoded with unless asked otherwise.",
                    REINSTALL)  # fmt: skip
    elif missing:
        yield warning("encoders", f"FFmpeg lacks an encoder of {', '.join(missing)}: jobs that ask for it fail.",
                      REINSTALL)  # fmt: skip
    if not missing:
        yield ok("encoders", f"All codecs can be encoded; on the GPU {', '.join(on_gpu) or 'none'}.")


def clip() -> Iterator[Finding]:
    """Whether a clip can be written, and looked into in a process that can do no harm."""
    with tempfile.TemporaryDirectory(prefix="dain-") as folder:
        path = Path(folder, "clip.mp4")
        picture = ["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24:duration=0.25"]
        command = [ffmpeg.binary(), "-v", "error", *picture, "-pix_fmt", "yuv420p", str(path)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            said = (made.stderr.strip() or "no reason given").splitlines()[0]
            yield error("clip", f"No video can be written to {folder}: {said}.",
                        "Make room there, or set TMPDIR to another folder.")  # fmt: skip
            return
        info = sandbox.probe(path)
    if (info.width, info.height) != (64, 64):
        yield error("clip", f"A clip of 64x64 is read as {info.width}x{info.height}.", REINSTALL)
    elif landlock_version() < 1:
        yield warning("clip", "A clip is written and read; this kernel has no Landlock, so files of strangers are "
                      "opened with less protection.", "Use Linux 5.13 or later (docs/security.md).")  # fmt: skip
    else:
        yield ok("clip", "A clip is written, and read in a process that can open nothing else.")


CHECKS: Checks = {"ffmpeg": program, "encoders": encoders, "clip": clip}
