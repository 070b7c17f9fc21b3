"""Looks into strangers' files for the API, from a process that has imported everything already.

A look in a fresh interpreter is twenty times as long as the look itself. So one process imports the prober, opens no
file ever, and forks for each request. The fork (`_supervise`) asks the sandbox; the process inside is a fork, too, and
ends with its one file. Neither the process that forks nor any later file comes near what a file does to it.

The API starts `python -m worker.media.forkserver` with a socket as standard input. Each message on it is a JSON object
of `question`, `file`, `limits` and `choice`, with the descriptor that the answer goes to: {"video": …} where the
question is "probe", what `sandbox.picture` returns where it is "picture", or {"error": {"type": slug, "detail":
sentence}}. Whoever closes the other end of the descriptor ends the look. The process ends when the other end of the
socket is closed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from worker.media import probe, sandbox
from worker.media.errors import MediaError
from worker.media.facts import Choice, Limits

MOST_BYTES = 1 << 16  # of a request
NICENESS = 5  # the API's answers come first
FIRST_INHERITED = 3  # descriptor: the standard three are the child's own
PR_SET_PDEATHSIG = 1  # prctl(2)


class Abandoned(Exception):
    """Nobody waits for the answer."""


class Forked:
    """A forked process; see `sandbox.Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._end = os.pidfd_open(pid)
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired([], timeout or 0.0)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


def serve(requests: socket.socket) -> None:
    """Fork for each request until the other end of `requests` is closed."""
    signal.signal(signal.SIGCHLD, _reap)
    gc.freeze()  # a collection would copy the memory that children share
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, 1)
        if not message:
            return
        [answer] = descriptors
        try:
            if not os.fork():
                requests.close()
                _supervise(message, answer)
        except OSError:  # no process is to be had now: the answer is closed without a word
            traceback.print_exc()
        os.close(answer)


def _reap(*_: object) -> None:
    """Let go of the forks that have ended; the kernel adds their time to this process's account of its children."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _supervise(request: bytes, answer: int) -> None:
    """Answer one request; the process ends here."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        readers = select.poll()
        readers.register(answer, 0)  # which reports POLLERR alone: the reader has gone

        def check() -> None:
            if readers.poll(0):
                raise Abandoned

        asked = json.loads(request)
        try:
            path, limits, choice = (
                Path(asked["file"]),
                Limits(**asked["limits"]),
                Choice(**asked.get("choice", {})),
            )
            reply: dict[str, Any]
            if asked.get("question") == "picture":
                reply = sandbox.picture(path, limits, check, start=fork, choice=choice)
            else:
                reply = {"video": sandbox.probe(path, limits, check, start=fork, choice=choice).as_dict()}
        except MediaError as error:
            reply = {"error": {"type": error.slug, "detail": error.detail}}
        with suppress(BrokenPipeError), open(answer, "w") as file:
            file.write(json.dumps(reply))
    except Abandoned:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def fork(arguments: Sequence[str], answer: IO[bytes], messages: IO[bytes]) -> Forked:
    """Start the process inside as a fork of this one; see `sandbox.Start`."""
    with sandbox.nowhere() as folder:
        os.chdir(folder)
    pid = os.fork()
    if pid:
        with suppress(OSError):  # so that its group is there to be killed, whichever of the two is first
            os.setpgid(pid, pid)
        return Forked(pid)
    status = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(answer.fileno(), sys.stdout.fileno())
        os.dup2(messages.fileno(), sys.stderr.fileno())
        os.closerange(FIRST_INHERITED, os.sysconf("SC_OPEN_MAX"))
        cpu_seconds, *rest = arguments
        sandbox.enter(int(cpu_seconds))
        sys.argv = [sandbox.PROBER, *rest]
        probe.main()
        sys.stdout.flush()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Serve the socket that is standard input; nothing is standard input of the processes that are forked."""
    os.nice(NICENESS)
    requests = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    serve(requests)


if __name__ == "__main__":
    main()
