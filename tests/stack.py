"""The whole service as a user has it: `dain up`, real Redis, API, worker, janitor, and the real network on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from service.client import Client

PROGRAMS = {
    "redis": "redis-server",
    "api": "service.api.app",
    "worker": "worker.main",
    "janitor": "service.jobs.janitor",
    "webhooks": "service.webhooks",
    "together": "service.together",
}


@dataclass
class Stack:
    """A running service."""

    url: str
    state_dir: Path
    process: subprocess.Popen[bytes]

    def client(self) -> Client:
        return Client(self.url, patience=30)

    def pids(self, program: str) -> list[int]:
        """The processes of one program; several where there are several workers."""
        found: list[int] = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # ended while we looked
                # A child that is about to become another program still has its parent's command line.
                if child.ppid() not in found and any(PROGRAMS[program] in word for word in child.cmdline()):
                    found.append(child.pid)
        return found

    def until(self, true: Callable[[], object], what: str, seconds: float = 90.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end or self.process.poll() is not None:
                logs = [log.read_text()[-2000:] for log in (self.state_dir / "logs").glob("*.log")]
                raise AssertionError("\n".join([f"{what} did not happen", *logs]))
            time.sleep(0.2)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=30).is_success
        except httpx.TransportError:
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(state_dir: Path, *how: str, before: Callable[[], None] | None = None, **settings: str) -> Stack:
    """Starts `dain up`, or what `how` says; `before` is called in its process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAIN_")}
    environment |= {"DAIN_SEGMENT_FRAMES": "6", "DAIN_WORKER_TTL_SECONDS": "4", "DAIN_MIN_FREE_BYTES": "1"}
    environment |= settings
    port = free_port()
    where = ["--port", str(port), "--state-dir", str(state_dir)]
    command = [sys.executable, "-m", "service.cli", *(how or ("up",)), *where]
    process = subprocess.Popen(command, env=environment, preexec_fn=before)
    stack = Stack(f"http://127.0.0.1:{port}", state_dir, process)
    try:
        stack.until(stack.ready, "readiness", 120)
    except BaseException:
        stop(stack)
        raise
    return stack


def stop(stack: Stack) -> None:
    children = (
        psutil.Process(stack.process.pid).children(recursive=True) if stack.process.poll() is None else []
    )
    stack.process.terminate()
    stack.process.wait(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, f"left running: {alive}"
