"""Whether an uploaded file is a video that can be taken, and the facts about it.

The file is a stranger's. The worker's sandbox looks into it, in a process with limits. The service starts the sandbox's
fork server by name (`python -m worker.media.forkserver`), imports nothing of it, and gives it none of the service's
environment.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import service
from service.jobs.notes import Note, refusal
from service.jobs.options import Options
from service.jobs.problems import PROBLEMS, Problem
from service.jobs.work import count_frames
from service.settings import Settings

log = logging.getLogger(__name__)

FORKSERVER = "worker.media.forkserver"
PACKAGES = Path(service.__file__).parent.parent
# The sandbox has time limits of its own. This longer one is for a sandbox that hangs, as on a disk that is gone.
LEAST_SECONDS = 1300.0
SLOWEST_DISK = 5e6  # bytes a second
SEND_SECONDS = 10.0  # after which a fork server that takes no request hangs
ATTEMPTS = 2  # a process that something outside ended gets one successor
RETRY_SECONDS = "60"
DEFAULTS = Options()


class Prober:
    """The fork server of this process. It is started again where it has ended. Any number of threads may ask it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(self) -> None:
        """Starts the fork server; it is warm within a second, and asking it earlier waits for that."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """Ends the fork server. What it still looks into ends with the caller's interest in it."""
        with self._lock:
            self._stop()

    def look(
        self, path: Path, settings: Settings, options: Options = DEFAULTS, question: str = "probe"
    ) -> dict[str, Any]:
        """What the sandbox answers about the file at `path`; raises Problem 503 where it gives no answer.

        `options` say what of the file is taken. `question` is "probe" or "picture"; see `worker.media.forkserver`.
        """
        limits = {
            "max_pixels": settings.max_pixels,
            "max_frames": settings.max_frames,
            "max_duration": settings.max_duration_seconds,
        }
        choice = {"stream": options.video_stream, "rate": options.source_fps}
        asked = {"question": question, "file": str(path.absolute()), "limits": limits, "choice": choice}
        request = json.dumps(asked).encode()
        until = time.monotonic() + LEAST_SECONDS + path.stat().st_size / SLOWEST_DISK
        for _ in range(ATTEMPTS):
            if text := self._ask(request, until):
                answer: dict[str, Any] = json.loads(text)
                return answer
            log.error("a process of %s ended without an answer", FORKSERVER)
        raise machine_failed("The part of the service that looks into files does not work.")

    def _ask(self, request: bytes, until: float) -> bytes:
        """The answer to `request`; empty where the process that worked on it has ended without one."""
        reader, writer = os.pipe()
        with open(reader, "rb", buffering=0) as answer:
            try:
                asked = self._send(request, writer)
            finally:
                os.close(writer)
            readable = select.poll()
            readable.register(reader, select.POLLIN)
            text = b""
            while readable.poll(max(until - time.monotonic(), 0) * 1000):
                if part := answer.read(1 << 16):
                    text += part
                    continue
                if not text:
                    self._replace(asked)
                return text
        self._replace(asked)
        raise machine_failed("Looking into the file took too long: the machine or its disk is too slow.")

    def _send(self, request: bytes, writer: int) -> subprocess.Popen[bytes]:
        """Hands `request` to the fork server, and returns it."""
        with self._lock:
            for _ in range(ATTEMPTS):
                if self._process is None:
                    self._start()
                assert self._process is not None and self._requests is not None
                try:
                    socket.send_fds(self._requests, [request], [writer])
                    return self._process
                except OSError as error:  # it has ended, or hangs
                    log.error("%s does not take a request: %r", FORKSERVER, error)
                    self._stop()
        raise machine_failed("The part of the service that looks into files cannot be started.")

    def _replace(self, failed: subprocess.Popen[bytes]) -> None:
        """Lets the next request start another fork server in the place of one that `failed`."""
        with self._lock:
            if self._process is failed:
                self._stop()

    def _start(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(SEND_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", FORKSERVER],
                env={
                    "PATH": os.defpath,
                    "PYTHONPATH": str(PACKAGES),
                    "LANG": "C.UTF-8",
                    "TMPDIR": gettempdir(),
                },
                stdin=theirs.fileno(),
                process_group=0,  # Ctrl-C is for the API, which ends it when it is done
            )

    def _stop(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self._requests = None, None


def probe(prober: Prober, path: Path, settings: Settings, options: Options) -> dict[str, Any]:
    """The facts about the video at `path`, as `worker.media.facts.VideoInfo` writes them.

    Raises:
        Problem: 415 or 422 where the video cannot be taken, or a strict job would lose something of it; 503 where this
            machine could not find out.
    """
    answer = prober.look(path, settings, options)
    if error := answer.get("error"):
        slug = error["type"] if error["type"] in PROBLEMS else "unreadable-video"
        headers = {"Retry-After": RETRY_SECONDS} if PROBLEMS[slug][0] == 503 else None
        raise Problem(slug, error["detail"], headers=headers)
    video: dict[str, Any] = answer["video"]
    check_result_frames(video, settings, options)
    if options.start is not None and options.beginning >= Fraction(video["duration"]):
        lasts = float(Fraction(video["duration"]))
        raise Problem(
            "invalid-option", f"start is {options.start} s, and the video lasts {lasts:g} s: begin earlier."
        )
    if options.strict and (why := refusal(Note.read_all(video.get("notes", ())))):
        raise Problem("loss-refused", why)
    return video


def first_frame(
    prober: Prober, path: Path, settings: Settings, options: Options
) -> tuple[str | None, str | None]:
    """The first frame of the video at `path` as a small JPEG, in base64, and how many frames a job makes of one.

    Both are None where they are not to be had; the second is a fraction.
    """
    answer = prober.look(path, settings, options, "picture")
    return answer.get("picture"), answer.get("frames_of_one")


def machine_failed(detail: str) -> Problem:
    """The service, not the file, is at fault."""
    return Problem(
        "machine-failed",
        f"{detail} The video may be fine: send it again later.",
        headers={"Retry-After": RETRY_SECONDS},
    )


def check_result_frames(video: dict[str, Any], settings: Settings, options: Options) -> None:
    """Raise Problem 422 where the result would have too many frames."""
    # What flags say of fields may be wrong: the frames of these are counted when the video is planned.
    frames, _ = count_frames(video, options.model_copy(update={"deinterlace": "off"}))
    if frames > settings.max_frames:
        raise Problem(
            "limit-exceeded",
            f"The result would have {frames} frames; at most {settings.max_frames} are made. "
            "Ask for fewer frames, or send the video in parts.",
        )
