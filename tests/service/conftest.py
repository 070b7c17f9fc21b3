from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from redis import Redis

from service.app import create_app
from service.jobs import Jobs
from service.settings import Settings
from service.store import Store


class Server(uvicorn.Server):
    """Stops at once, where uvicorn's looks every 0.1 s whether it should."""

    async def main_loop(self) -> None:
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        self.running.set()
        await self.stopped.wait()


@contextmanager
def serve(settings: Settings, port: int = 0) -> Iterator[str]:
    """The API on a port of its own, in a thread; yields its URL."""
    config = uvicorn.Config(
        create_app(settings), port=port, log_level="critical", timeout_graceful_shutdown=1
    )
    server = Server(config)
    server.running = threading.Event()
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.running.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.loop.call_soon_threadsafe(server.stopped.set)
        thread.join()


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with serve(settings) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as http:
        yield http


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    return Jobs.from_settings(redis, settings)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store.from_settings(settings)


@pytest.fixture
def debris(store: Store, redis: Redis) -> Callable[[], list[str]]:
    """What is in the store, on record, queued or reserved: must be nothing after a refusal."""

    def look() -> list[str]:
        files = [str(path) for path in store.root.rglob("*") if path.is_file()]
        folders = [str(path) for path in (store.root / "scratch").iterdir()]
        return files + folders + [key.decode() for key in redis.keys("*")]

    return look


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
