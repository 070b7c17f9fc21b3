from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api.feed import Feed
from service.jobs.keys import Key, RedisKeys, open_keys
from service.jobs.machine import Jobs
from service.jobs.records import Output, State, frames_key
from service.settings import Settings
from service.store import Store, nothing
from service.store.blocks import put_blocks
from tests.api import serve


@pytest.fixture
def feeds(monkeypatch: pytest.MonkeyPatch) -> list[Feed]:
    """The feed of each service that the test starts."""
    made: list[Feed] = []

    def make(redis_url: str) -> Feed:
        made.append(from_url(redis_url))
        return made[-1]

    from_url = Feed.from_url
    monkeypatch.setattr(Feed, "from_url", make)
    return made


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
    return settings.open_store()


@pytest.fixture
def finish(jobs: Jobs, store: Store) -> Callable[..., None]:
    """Ends a job, by its id, with a result of these bytes, and with what is known of its frames."""

    def end(job_id: str, content: bytes, frames: bytes | None = None) -> None:
        key, frames_sha256 = f"results/{job_id}/attempt.mp4", None
        with store.scratch() as folder:
            if frames is not None:
                (folder / "frames").write_bytes(frames)
                frames_sha256 = store.put(folder / "frames", frames_key(key)).sha256
            (folder / "result").write_bytes(content)
            blocks_sha256 = put_blocks(store, folder / "result", key, nothing)
            store.put(folder / "result", key)
        output = Output(
            key=key,
            filename="café-2x.mp4",
            media_type="video/mp4",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            blocks_sha256=blocks_sha256,
            frames_sha256=frames_sha256,
            frames=24,
            frame_rate="48",
            duration_seconds=0.5,
        )
        assert jobs.finish(job_id, State.SUCCEEDED, output=output)

    return end


@pytest.fixture
def debris(store: Store, redis: Redis) -> Callable[[], list[str]]:
    """What is in the store, on record, queued or reserved: must be nothing after a refusal."""

    def look() -> list[str]:
        walk = os.walk(store.root)  # which passes over what vanishes meanwhile, as `rglob` does not
        files = [str(Path(folder, name)) for folder, _, names in walk for name in names]
        folders = [str(path) for path in (store.root / "scratch").iterdir()]
        # What an owner was allowed to upload today stays counted, whatever becomes of it.
        known = [key.decode() for key in redis.keys("*") if not key.endswith(b":bytes")]
        return files + folders + known

    return look


@pytest.fixture
def make_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Makes a key of an owner, and gives the header that its caller sends; the API sees it at once."""
    monkeypatch.setattr(RedisKeys, "SECONDS", 0)

    def make(owner: str, *scopes: str, **fields: Any) -> dict[str, str]:
        key, token = Key.new(owner, scopes or ("submit", "read"), **fields)
        open_keys(settings).put(key)
        return {"Authorization": f"Bearer {token}"}

    return make
