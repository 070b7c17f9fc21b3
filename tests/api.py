"""The HTTP API in this process, and what tests ask of its answers."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api import server
from service.api.app import create_app
from service.settings import Settings

RESULT = random.Random(0).randbytes(300_000)  # what the finished jobs of tests hold


class Server(server.Server):
    """Starts and stops at once, where uvicorn's looks every 0.1 s whether it should, or is done."""

    async def main_loop(self) -> None:
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        self.running.set()
        await self.stopped.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.end_waiting()
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.tasks:
            await asyncio.sleep(0.001)
        await self.lifespan.shutdown()


@contextmanager
def serve(settings: Settings, port: int = 0) -> Iterator[str]:
    """The API on a port of its own, in a thread; yields its URL."""
    config = server.Config(create_app(settings), port=port, log_level="critical", timeout_graceful_shutdown=1)
    api = Server(config)
    api.running = threading.Event()
    thread = threading.Thread(target=api.run)
    thread.start()
    assert api.running.wait(30)
    port = api.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        api.loop.call_soon_threadsafe(api.stopped.set)
        thread.join()


@contextmanager
def cutting_proxy(url: str, *, up: list[int | None], down: list[int | None]) -> Iterator[str]:
    """Passes connections on to the server at `url`; the n-th is cut after so many bytes one way (None: never)."""
    port = int(url.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        with closing(source), closing(target), suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data if most is None else data[: max(most - passed, 0)])
                passed += len(data)
                if most is not None and passed >= most:
                    break
            source.shutdown(socket.SHUT_RDWR)
            target.shutdown(socket.SHUT_RDWR)

    def listen() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            limits = [(near, far, up.pop(0) if up else None), (far, near, down.pop(0) if down else None)]
            for limit in limits:
                threading.Thread(target=pass_on, args=limit, daemon=True).start()

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:  # else a test that fails would never end
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:dain:problem:{slug}"
    assert problem["status"] == status
    assert problem["title"] and problem["detail"]
    assert problem["instance"] == response.request.url.path
    return problem


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 90  # machines may be busy
    while not condition():
        if time.monotonic() > end:
            pytest.fail("it did not happen in 90 s")
        time.sleep(0.01)


@contextmanager
def away(redis: Redis, settings: Settings) -> Iterator[None]:
    """Nobody but this test reaches Redis meanwhile."""
    socket_file = Path(settings.require_redis_url.removeprefix("unix://"))
    gone = socket_file.rename(socket_file.with_suffix(".gone"))
    redis.client_kill_filter(_type="normal", skipme=True)
    try:
        yield
    finally:
        gone.rename(socket_file)
