"""Starts the processes of the sandbox as forks of one that has imported everything.

A fresh interpreter takes ten times as long as a look into a small clip. `python -m tests.worker.forks` is what forks.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from worker.media import forkserver

ROOT = Path(__file__).parents[2]


class Started:
    """A process of the sandbox; see `sandbox.Process`."""

    def __init__(self, told: IO[bytes]) -> None:
        self._told = told
        self.pid = int(told.readline())
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired([], timeout or 0.0)
            self._status = int(self._told.readline())
            self._told.close()
        return self._status


class Forks:
    """The process that forks, from the first start on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def start(self, arguments: Sequence[str], answer: IO[bytes], messages: IO[bytes]) -> Started:
        """As `sandbox.spawn`."""
        if self._process is None:
            command = [sys.executable, "-m", "tests.worker.forks"]
            environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=self._theirs)
        reader, writer = os.pipe()
        descriptors = [answer.fileno(), messages.fileno(), writer]
        socket.send_fds(self._requests, [json.dumps(list(arguments)).encode()], descriptors)
        os.close(writer)
        return Started(open(reader, "rb", buffering=0))

    def end(self) -> None:
        self._requests.close()
        self._theirs.close()
        if self._process is not None:
            self._process.wait()


def serve(requests: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork of this process waits to be asked for
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 16, 3)
        if not message:
            return
        if not os.fork():
            requests.close()
            supervise(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def supervise(arguments: list[str], answer: int, messages: int, tell: int) -> None:
    """Start the process inside, and tell its id and how it ended; this process ends here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with open(answer, "wb") as output, open(messages, "wb") as errors:
            process = forkserver.fork(arguments, output, errors)
        os.write(tell, f"{process.pid}\n".encode())
        os.write(tell, f"{process.wait()}\n".encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=sys.stdin.fileno()))
