"""The client that is awaited: the same code as `Client`, of which `test_client` asks more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from service.client import AsyncClient, Client, NotFound, QueueFull, Unreachable, async_client, retries
from service.jobs.machine import Jobs
from service.settings import Settings
from service.store import Store
from tests.api import cutting_proxy, serve
from tests.service.client import halves

CONTENT = random.Random(1).randbytes(3_000_000)


def test_one_half_is_made_of_the_other() -> None:
    assert halves.made() == halves.MADE.read_text(), "python -m tests.service.client.halves writes it anew"
    calls = {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}
    assert calls == {name for name in vars(Client) if not name.startswith("_")} - {"close"}


def test_from_upload_to_download_over_a_network_that_fails(
    url: str,
    clip: Path,
    tmp_path: Path,
    finish: Callable[[str, bytes], None],
    jobs: Jobs,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(async_client, "RESUMABLE_BYTES", 1)
    monkeypatch.setattr(async_client, "PIECE_BYTES", 4000)
    for module in (retries, async_client):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)

    async def everything(proxy: str) -> None:
        async with AsyncClient(proxy) as client:
            job = await client.submit(clip, {"target_fps": 60})
            up.clear()
            with store.fetch(jobs.get(job.id).source) as upload:
                assert upload.read_bytes() == clip.read_bytes()
            waiting = asyncio.create_task(client.wait(job.id))
            other = await client.submit(clip.read_bytes(), filename="other.mp4")  # meanwhile
            assert other.filename == "other.mp4" and not waiting.done()
            finish(job.id, CONTENT)
            assert (await waiting).status == "succeeded"
            assert [event.type async for event in client.events(job.id)] == ["job"]
            await client.cancel(other.id)
            await client.delete(other.id)
            assert [each.id for each in await client.jobs()] == [job.id]
            with pytest.raises(NotFound):
                await client.job(other.id)
        down.append(1_500_000)
        async with AsyncClient(proxy) as client:
            await client.download(job.id, tmp_path / "out.mp4")
        assert (tmp_path / "out.mp4").read_bytes() == CONTENT and not down

    up: list[int | None] = [6000, 5500]
    down: list[int | None] = []
    with cutting_proxy(url, up=up, down=down) as proxy:
        asyncio.run(everything(proxy))


def test_errors_are_those_of_the_other_client(
    settings: Settings, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BUSY_SECONDS", 0)

    async def fail(url: str) -> None:
        async with AsyncClient(url) as client:
            await client.submit(clip)
            with pytest.raises(QueueFull) as full:
                await client.submit(clip)
            assert full.value.retry_after and full.value.slug == "queue-full"
        async with AsyncClient("http://127.0.0.1:9") as client:
            with pytest.raises(Unreachable, match="nothing listens there"):
                await client.jobs()

    with serve(settings.model_copy(update={"max_queued_jobs": 1})) as url:
        asyncio.run(fail(url))
