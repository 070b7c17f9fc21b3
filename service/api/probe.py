"""Whether an uploaded file is a video that can be taken, and the facts about it.

The file is a stranger's. The worker's sandbox (`python -m worker.media.sandbox`) looks into it, in a process with
limits. The service starts it by name, imports nothing of it, and gives it none of the service's environment.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import service
from service.jobs.options import Options
from service.jobs.problems import PROBLEMS, Problem
from service.settings import Settings

log = logging.getLogger(__name__)

SANDBOX = "worker.media.sandbox"
PACKAGES = Path(service.__file__).parent.parent
# The sandbox has time limits of its own. This longer one is for a sandbox that hangs, as on a disk that is gone.
LEAST_SECONDS = 150.0
SLOWEST_DISK = 8e6  # bytes a second
RETRY_SECONDS = "60"


def probe(path: Path, settings: Settings, options: Options) -> dict[str, Any]:
    """The facts about the video at `path`, as `worker.media.facts.VideoInfo` writes them.

    Raises:
        Problem: 415 or 422 where the video cannot be taken; 503 where this machine could not find out.
    """
    answer = look(path, settings)
    if error := answer.get("error"):
        slug = error["type"] if error["type"] in PROBLEMS else "unreadable-video"
        headers = {"Retry-After": RETRY_SECONDS} if PROBLEMS[slug][0] == 503 else None
        raise Problem(slug, error["detail"], headers=headers)
    video: dict[str, Any] = answer["video"]
    check_result_frames(video, settings, options)
    return video


def look(path: Path, settings: Settings) -> dict[str, Any]:
    """What the sandbox answers about the file at `path`; raises Problem 503 where it gives no answer."""
    limits = [
        f"--max-pixels={settings.max_pixels}",
        f"--max-frames={settings.max_frames}",
        f"--max-duration={settings.max_duration_seconds}",
    ]
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-m", SANDBOX, *limits, str(path.absolute())],
        env={"PATH": os.defpath, "PYTHONPATH": str(PACKAGES), "LANG": "C.UTF-8", "TMPDIR": gettempdir()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            output, messages = process.communicate(timeout=LEAST_SECONDS + path.stat().st_size / SLOWEST_DISK)
        except subprocess.TimeoutExpired:
            raise machine_failed(
                "Looking into the file took too long: the machine or its disk is too slow."
            ) from None
        finally:
            process.terminate()  # upon which it ends the process inside
    if process.returncode == 0:
        answer: dict[str, Any] = json.loads(output)
        return answer
    log.error("%s ended with %d: %s", SANDBOX, process.returncode, messages[-4096:].decode(errors="replace"))
    raise machine_failed("The part of the service that looks into files does not work.")


def machine_failed(detail: str) -> Problem:
    """The service, not the file, is at fault."""
    return Problem(
        "machine-failed",
        f"{detail} The video may be fine: send it again later.",
        headers={"Retry-After": RETRY_SECONDS},
    )


def check_result_frames(video: dict[str, Any], settings: Settings, options: Options) -> None:
    """Raise Problem 422 where the result would have too many frames."""
    if options.rate:
        frames = int(Fraction(video["duration"]) * options.stretch * options.rate)
    else:
        frames = int(video["frames"] * options.stretch * (options.factor or 1))
    if frames > settings.max_frames:
        raise Problem(
            "limit-exceeded",
            f"The result would have {frames} frames; at most {settings.max_frames} are made. "
            "Ask for fewer frames, or send the video in parts.",
        )
