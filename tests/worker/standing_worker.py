"""A worker in which one thing stands still: `python -m tests.worker.standing_worker decoder`; "nothing" works well.

Its network is an average. FFmpeg processes stand still as they do in life: they are stopped from outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

from service.settings import read_settings
from tests.worker.one_worker import Interruptible
from worker import main
from worker.media import ffmpeg, sandbox
from worker.media.encode import Encoder
from worker.models import Models


class Network(Interruptible):
    backend = precision = "none"

    def warm_up(self) -> None: ...


def wait_for_ever(*_: object) -> Any:
    threading.Event().wait()


def stop_ffmpeg(word: str) -> None:
    """Stop each FFmpeg process that has `word` among its arguments, as it starts."""
    start = ffmpeg.Process.__init__

    def start_and_stop(self: ffmpeg.Process, command: list[str], **options: Any) -> None:
        start(self, command, **options)
        if word in command:
            os.kill(self.pid, signal.SIGSTOP)

    ffmpeg.Process.__init__ = start_and_stop  # type: ignore[method-assign]


def stop_prober() -> None:
    """Stop each process that looks into a file, as it starts."""
    start = sandbox.subprocess.Popen

    def start_and_stop(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = start(*arguments, **options)
        os.kill(process.pid, signal.SIGSTOP)
        return process

    sandbox.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": start_and_stop})  # type: ignore[attr-defined]


def stand_still(what: str) -> None:
    words = {"times": "framecrc", "decoder": "rawvideo", "encoder": "libx264", "joiner": "+faststart"}
    if what in words:
        stop_ffmpeg(words[what])
    elif what == "prober":
        stop_prober()
    elif what == "network":
        Network.submit = wait_for_ever  # type: ignore[method-assign]
    elif what == "sink":
        Encoder.write = wait_for_ever  # type: ignore[method-assign]
    else:
        assert what == "nothing"


if __name__ == "__main__":
    stand_still(sys.argv[1])
    setattr(main, "load", lambda settings: Models(lambda name: Network("dain"), "auto"))  # noqa: B010
    sys.exit(main.run(read_settings()))
