from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from redis import Redis

from service.jobs import Jobs
from service.settings import Settings
from service.store import Store
from tests.api import serve


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with serve(settings) as url:
        yield url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, verify=False) as http:  # plain HTTP needs no certificates
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
