"""Is this file a video that can be taken? Asked of the worker's prober, in a process of its own.

The file is a stranger's, and demuxers are where such files do their harm. The process gets an empty folder, an empty
environment, limits on memory, time and output, and is killed with its children when it overstays. Whatever becomes of
it, the answer is the video's facts or a `Problem`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import service
from service.jobs.options import Options
from service.jobs.problems import PROBLEMS, Problem
from service.settings import Settings

log = logging.getLogger(__name__)

PROBER = "worker.media.probe"
WALL_SECONDS = 60.0
SLOWEST_DISK = 20e6  # bytes/s: the whole file is read
CPU_SECONDS = 60
MEMORY_KIB = 4 * 2**20  # address space, which threads and libraries fill faster than memory
OUTPUT_BLOCKS = 2048  # of 512 bytes: more than any answer needs
PACKAGES = Path(service.__file__).parent.parent

# Limits are set by the shell before Python starts: a hook between fork and exec is not safe in a process with threads.
LIMITED = (
    f'ulimit -c 0; ulimit -t {CPU_SECONDS}; ulimit -v {MEMORY_KIB}; ulimit -f {OUTPUT_BLOCKS}; exec "$@"'
)


def probe(path: Path, folder: Path, settings: Settings, options: Options) -> dict[str, Any]:
    """The facts of the video at `path`; raises Problem 415 or 422 where it cannot be taken.

    `folder` is for scratch.
    """
    output = run_prober(path, folder, settings)
    try:
        answer = json.loads(output)
        if error := answer.get("error"):
            slug = error["type"] if error["type"] in PROBLEMS else "unreadable-video"
            raise Problem(slug, error["detail"].replace(str(path), "the file"))
        video: dict[str, Any] = answer["video"]
        check_result_frames(video, settings, options)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # A process that a file has taken over may print anything.
        log.warning("the prober answered %r", output[:200], exc_info=True)
        raise unreadable("looking into it failed") from None
    return video


def run_prober(path: Path, folder: Path, settings: Settings) -> bytes:
    """What the prober printed; raises Problem when it crashed or took too long."""
    work = folder / "probe"
    work.mkdir(mode=0o700)
    limits = [
        f"--max-pixels={settings.max_pixels}",
        f"--max-frames={settings.max_frames}",
        f"--max-duration={settings.max_duration_seconds}",
    ]
    python = [sys.executable, "-P", "-s", "-m", PROBER, "probe", *limits, str(path.absolute())]
    command = ["/bin/sh", "-c", LIMITED, "sh", *python]
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(PACKAGES),
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "HOME": str(work),
    }
    with (work / "answer").open("w+b") as answer, (work / "messages").open("w+b") as messages:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=messages,
            start_new_session=True,
        )
        try:
            status = process.wait(WALL_SECONDS + path.stat().st_size / SLOWEST_DISK)
        except subprocess.TimeoutExpired:
            raise unreadable("looking into it took too long") from None
        finally:
            end(process)
        if status != 0:
            messages.seek(0)
            log.warning("the prober ended with %d: %s", status, messages.read(4096).decode(errors="replace"))
            raise unreadable("looking into it failed")
        answer.seek(0)
        return answer.read()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills whatever is left of the prober's process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check_result_frames(video: dict[str, Any], settings: Settings, options: Options) -> None:
    """Raises Problem 422 where the result would have too many frames."""
    if options.rate:
        frames = int(Fraction(video["duration"]) * options.stretch * options.rate)
    else:
        frames = int(int(video["frames"]) * options.stretch * (options.factor or 1))
    if frames > settings.max_frames:
        raise Problem(
            "limit-exceeded",
            f"The result would have {frames} frames; at most {settings.max_frames} are made. "
            "Ask for fewer frames, or send the video in parts.",
        )


def unreadable(reason: str) -> Problem:
    return Problem(
        "unreadable-video",
        f"The file cannot be read as a video: {reason}. Check that it plays, or convert it to MP4 (H.264).",
    )
