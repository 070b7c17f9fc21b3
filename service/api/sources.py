"""Videos by URL: the service fetches what `source_url` names, from public hosts, within limits of size and time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
from fastapi.concurrency import run_in_threadpool

from service.api.uploads import Upload, VideoFile, clean_filename
from service.egress import Egress, EgressRefused, parse_url
from service.jobs.problems import Problem

IDLE_SECONDS = 20.0  # a server that sends nothing for so long will send nothing more
TOTAL_SECONDS = 600.0
MOST_OF_ONE = 4  # fetches of one owner at a time


class Fetches:
    """How many fetches each owner has in hand. It belongs to one event loop."""

    def __init__(self) -> None:
        self._in_hand: Counter[str] = Counter()

    @contextmanager
    def place(self, owner: str) -> Iterator[None]:
        """Holds a place of `owner`; raises Problem 429 where all are taken."""
        if self._in_hand[owner] >= MOST_OF_ONE:
            raise Problem(
                "too-many-uploads",
                f"{MOST_OF_ONE} videos are being fetched for you; send more when those are answered.",
                headers={"Retry-After": "10"},
            )
        self._in_hand[owner] += 1
        try:
            yield
        finally:
            self._in_hand[owner] -= 1
            if not self._in_hand[owner]:
                del self._in_hand[owner]


async def fetch(
    upload: Upload, egress: Egress, *, max_bytes: int, excess: Problem, check_space: Callable[[], None]
) -> Upload:
    """`upload` with the video that its `source_url` names, at its `path`; as `uploads.receive` in all else.

    Raises `excess` where the video has more than `max_bytes`, and Problem (422 `source-refused`, 502
    `source-unreachable`, 507).
    """
    assert upload.source_url is not None
    try:
        url = parse_url(upload.source_url)
        async with asyncio.timeout(TOTAL_SECONDS):
            video = VideoFile(upload.path, max_bytes, check_space)
            await _download(url, egress, video, max_bytes, excess)
    except EgressRefused as error:
        raise Problem("source-refused", f"The source_url is not accepted: {error}") from None
    except (TimeoutError, httpx.TimeoutException):
        raise unreachable(
            f"its server did not send the video in time ({IDLE_SECONDS:.0f} s without a byte, {TOTAL_SECONDS:.0f} s in "
            "all)"
        ) from None
    except httpx.TransportError as error:
        raise unreachable(f"the connection failed: {error or type(error).__name__}") from None
    name = clean_filename(url.path)
    return replace(upload, size_bytes=video.size_bytes, sha256=video.sha256(), filename=name)


async def _download(
    url: httpx.URL, egress: Egress, video: VideoFile, max_bytes: int, excess: Problem
) -> None:
    timeout = httpx.Timeout(IDLE_SECONDS, connect=5.0)
    headers = {"Accept-Encoding": "identity"}
    try:
        async with (
            egress.client() as client,
            client.stream("GET", url, headers=headers, timeout=timeout) as response,
        ):
            check(response, max_bytes, excess)
            async for chunk in response.aiter_raw():
                if video.size_bytes + len(chunk) > max_bytes:
                    raise excess
                video.write(chunk)
                if video.is_due:
                    await run_in_threadpool(video.flush)
        if not video.size_bytes:
            raise unreachable("its server sent no byte")
        await run_in_threadpool(video.flush)
    finally:
        video.close()


def check(response: httpx.Response, max_bytes: int, excess: Problem) -> None:
    """Raises Problem where the headers of `response` show that it is not the video, or a larger one than is taken."""
    if response.is_redirect:
        raise unreachable(
            f"its server answered {response.status_code}; redirects are not followed, name the last URL"
        )
    if response.status_code != 200:
        raise unreachable(f"its server answered {response.status_code}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise unreachable("its server sent the video in a content encoding, though none was asked for")
    if int(response.headers.get("Content-Length", "0")) > max_bytes:
        raise excess


def unreachable(why: str) -> Problem:
    return Problem("source-unreachable", f"The video at source_url could not be fetched: {why}.")


def too_large(max_bytes: int) -> Problem:
    return Problem(
        "source-too-large",
        f"The video at source_url has more than the {max_bytes} bytes that are taken (DAIN_MAX_UPLOAD_BYTES); name a "
        "shorter one.",
        max_bytes=max_bytes,
    )
