"""The calls of the API as methods."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from .errors import ClientError, Damaged, unreachable
from .events import Event, read_events
from .resumable import ResumableUpload
from .retries import FIRST_PAUSE, persist, raise_for_problem

CHUNK_BYTES = 2**20
RESUMABLE_BYTES = 64 * 2**20  # from which a video is sent in pieces
PAGE = 200
WAIT_SECONDS = 25.0  # of one long poll; proxies give up after 30 or 60
QUIET_SECONDS = 60.0  # that a stream of events may be silent; the service sends something every 15
# The service answers an upload once it has looked through all of it, which takes a slow disk long.
ANSWER_SECONDS = 600.0
FETCH_SECONDS = 2 * ANSWER_SECONDS  # the service fetches for as long as one of the two, and then looks
SLOWEST_DISK = 5e6  # bytes/s
_VISIBLE = re.compile(r"[!-~]+")
# In such a URL, what is read as the host is a part of a password that holds a / or the like.
_AT_AFTER_AUTHORITY = re.compile(r"//[^/?#]*[/?#].*@", re.DOTALL)


class Client:
    """Speaks to the service at `base_url`, e.g. ``http://127.0.0.1:8000``; sends a name and password in it as a login.

    `token` is what `dain keys add` printed; unset: the environment's DAIN_TOKEN, if there is one. It may not go
    with a login, since a request carries one of them.

    `timeout` is the longest silence, in seconds, that a call bears; `submit` waits longer for the answer to an upload.
    Every method raises ClientError. Every method but `cancel` repeats what failed, for minutes where the service is
    busy (429, 503), for half a minute where the connection fails.
    """

    def __init__(self, base_url: str, *, token: str | None = None, timeout: float = 60.0) -> None:
        url = _parsed(base_url)
        # The login goes into a header: no message or log that shows a request's URL shows the password.
        login = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        token = (os.environ.get("DAIN_TOKEN", "") if token is None else token).strip()
        self.url = url.copy_with(userinfo=b"")
        self._timeout = timeout
        headers = _authorization(token, login is not None)
        self._http = httpx.Client(base_url=self.url, timeout=timeout, auth=login, headers=headers)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to the service."""
        self._http.close()

    def submit(
        self,
        path: Path,
        options: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        *,
        mask: Path | None = None,
    ) -> dict[str, Any]:
        """Uploads the video at `path` and returns the job. However often it has to be sent, there is one job.

        `options` are those of POST /jobs, e.g. ``{"target_fps": "60", "metadata": {"user": "42"}}``; None counts as
        not given. Two calls with one `idempotency_key` make one job. A large video is sent in pieces: where the
        connection breaks, one piece is sent again. `mask` is a PNG of what stands still in the video; with one, the
        video is sent in one piece.
        """
        if mask is not None:
            return self._submit_with(mask, path, options, idempotency_key)
        size = path.stat().st_size
        answer_seconds = max(self._timeout, ANSWER_SECONDS + size / SLOWEST_DISK)
        upload = ResumableUpload.begin(self._http, size, answer_seconds) if size >= RESUMABLE_BYTES else None
        query = _query(path, options) | ({"upload": upload.id} if upload else {})
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": "0" if upload else str(size),
            "Idempotency-Key": f'"{idempotency_key or uuid.uuid4()}"',
        }

        def send() -> dict[str, Any]:
            with path.open("rb") as file:
                body = b"" if upload else iter(lambda: file.read(CHUNK_BYTES), b"")
                timeout = httpx.Timeout(self._timeout, read=answer_seconds)
                return self._json(
                    "POST", "/jobs", params=query, headers=headers, content=body, timeout=timeout
                )

        with upload.sent(path) if upload else nullcontext():
            return persist(send, self.url, in_use_seconds=answer_seconds)

    def _submit_with(
        self, mask: Path, path: Path, options: Mapping[str, Any] | None, idempotency_key: str | None
    ) -> dict[str, Any]:
        answer_seconds = max(self._timeout, ANSWER_SECONDS + path.stat().st_size / SLOWEST_DISK)
        query = _query(path, options)
        name = query.pop("filename", path.name)
        headers = {"Idempotency-Key": f'"{idempotency_key or uuid.uuid4()}"'}

        def send() -> dict[str, Any]:
            with path.open("rb") as video, mask.open("rb") as picture:
                files = {"mask": (mask.name, picture, "image/png"), "file": (name, video)}
                timeout = httpx.Timeout(self._timeout, read=answer_seconds)
                return self._json(
                    "POST", "/jobs", params=query, headers=headers, files=files, timeout=timeout
                )

        return persist(send, self.url, in_use_seconds=answer_seconds)

    def estimate(self, path: Path, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a job of the video at `path` would take: frames, work, seconds, place in the queue. None is started."""
        size = path.stat().st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        answer_seconds = max(self._timeout, ANSWER_SECONDS + size / SLOWEST_DISK)
        timeout = httpx.Timeout(self._timeout, read=answer_seconds)

        def send() -> dict[str, Any]:
            with path.open("rb") as file:
                body = iter(lambda: file.read(CHUNK_BYTES), b"")
                query = _query(path, options)
                return self._json(
                    "POST", "/jobs/estimate", params=query, headers=headers, content=body, timeout=timeout
                )

        return persist(send, self.url)

    def submit_url(
        self, source_url: str, options: Mapping[str, Any] | None = None, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """As `submit`, for a video that the service fetches from `source_url`; returns once it has it."""
        headers = {"Idempotency-Key": f'"{idempotency_key or uuid.uuid4()}"'}
        return self._post_url("/jobs", source_url, options, headers=headers)

    def estimate_url(self, source_url: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As `estimate`, for a video that the service fetches from `source_url`."""
        return self._post_url("/jobs/estimate", source_url, options)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it stands."""
        return self._get(f"/jobs/{job_id}")

    def jobs(
        self,
        status: str | None = None,
        *,
        reference: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """All jobs, newest first; or those with one status, with one reference, and with all of `metadata`."""
        asked = {"status": status, "reference": reference}
        query = {"limit": str(PAGE)} | {name: value for name, value in asked.items() if value}
        query |= {f"metadata.{name}": value for name, value in (metadata or {}).items()}
        found: list[dict[str, Any]] = []
        while True:
            page = self._get("/jobs", params=query)
            found += page["jobs"]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    def wait(
        self,
        job_id: str,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        *,
        interval: float = 1.0,
    ) -> dict[str, Any]:
        """Waits until the job has ended, well or not, and returns it.

        `on_progress` gets the job at once, then with each state and each percent of its progress, at most once in
        `interval` seconds. An older service answers without waiting, and is asked every `interval` seconds.
        """
        query, known = {"wait": "0"}, dict[str, str]()
        while True:
            ask = partial(self._request, "GET", f"/jobs/{job_id}", params=query, headers=known)
            response = persist(ask, self.url)
            if response.status_code != 304:
                job: dict[str, Any] = response.json()
                if on_progress is not None:
                    on_progress(job)
                if job["finished_at"] is not None:
                    return job
            etag = response.headers.get("ETag")
            if etag is not None:
                query = {"wait": f"{min(WAIT_SECONDS, self._timeout / 2):g}"}
            if etag is None or on_progress is not None:
                known = {} if etag is None else {"If-None-Match": etag}
                time.sleep(interval)

    def events(self, job_id: str | None = None, *, after: str | None = None) -> Iterator[Event]:
        """The events of a job until it is over, or of all jobs without an end, as they happen.

        They begin behind the event with the id `after`, else now. The first of a job is then `job`, the job as it
        stands. Where the connection breaks, they go on behind the last; where events are no longer kept by then, with
        one of the type `reset`.
        """
        path = "/events" if job_id is None else f"/jobs/{job_id}/events"
        while True:
            with closing(persist(partial(self._open, path, after), self.url)) as response:
                if response.status_code == 204:
                    return
                try:
                    for event in read_events(response.iter_bytes()):
                        after = event.id or after
                        if event.type:
                            yield event
                        if job_id is not None and event.is_last:
                            return
                except httpx.TransportError:
                    pass  # it goes on where it was
            time.sleep(FIRST_PAUSE)

    def download(self, job_id: str, path: Path, *, overwrite: bool = False) -> None:
        """Fetches the result to `path`, which appears once the result is whole and its SHA-256 agrees.

        What has arrived lies beside it as `<path>.<start of the hash>.part`; a later call goes on from there. Raises
        FileExistsError where `path` is there, unless `overwrite` is given.
        """
        _check_free(path, overwrite)
        part, sha256 = persist(lambda: self._fetch(job_id, path), self.url)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            part.unlink()
            raise Damaged(f"The result of job {job_id} arrived damaged; download it again.")
        _check_free(path, overwrite)
        part.replace(path)

    def _fetch(self, job_id: str, path: Path) -> tuple[Path, str]:
        """Completes the part file of `path`; returns it, and the hash that the result should have."""
        output = self.job(job_id)["output"]
        headers = {}
        if output:
            part = _part(path, output["sha256"])
            have = part.stat().st_size if part.exists() else 0
            if 0 < have < output["size_bytes"]:
                headers = {"Range": f"bytes={have}-", "If-Range": f'"{output["sha256"]}"'}
        with self._result(job_id, headers) as response:
            tag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
            sha256 = output["sha256"] if output else tag
            part = _part(path, sha256)
            with part.open("ab" if response.status_code == 206 else "wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
        return part, sha256

    @contextmanager
    def _result(self, job_id: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The answer with the result, from the service or from where it says that the result is."""
        with self._http.stream("GET", f"/jobs/{job_id}/result", headers=headers) as response:
            if not response.has_redirect_location:
                raise_for_problem(response)
                yield response
                return
        # Another server: it gets no login of ours, and knows the file by another tag.
        ranges = {name: value for name, value in headers.items() if name == "Range"}
        with httpx.stream(
            "GET", response.headers["Location"], headers=ranges, timeout=self._timeout
        ) as response:
            raise_for_problem(response)
            yield response

    def cancel(self, job_id: str) -> dict[str, Any] | None:
        """Cancels the job and returns it, or removes one that had ended and returns None."""
        try:
            response = self._request("DELETE", f"/jobs/{job_id}")
        except (
            httpx.TransportError
        ) as error:  # not repeated: a second DELETE would remove what the first cancelled
            raise unreachable(self.url, error) from error
        return None if response.status_code == 204 else response.json()

    def workers(self) -> list[dict[str, Any]]:
        """The workers that are alive."""
        found: list[dict[str, Any]] = self._get("/workers")
        return found

    def _post_url(
        self, path: str, source_url: str, options: Mapping[str, Any] | None, **arguments: Any
    ) -> dict[str, Any]:
        body = {**_given(options), "source_url": source_url}
        timeout = httpx.Timeout(self._timeout, read=max(self._timeout, FETCH_SECONDS))
        return persist(
            lambda: self._json("POST", path, json=body, timeout=timeout, **arguments),
            self.url,
            in_use_seconds=FETCH_SECONDS,
        )

    def _get(self, path: str, **arguments: Any) -> Any:
        return persist(lambda: self._json("GET", path, **arguments), self.url)

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        return self._request(method, path, **arguments).json()

    def _open(self, path: str, after: str | None) -> httpx.Response:
        """The response of a stream of events, to be closed."""
        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
        timeout = httpx.Timeout(self._timeout, read=max(self._timeout, QUIET_SECONDS))
        request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
        response = self._http.send(request, stream=True)
        try:
            raise_for_problem(response)
        except BaseException:
            response.close()
            raise
        return response

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        response = self._http.request(method, path, **arguments)
        raise_for_problem(response)
        return response


def _parsed(base_url: str) -> httpx.URL:
    """The URL; ClientError where it is none. The error does not repeat it: it may hold a password."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or _AT_AFTER_AUTHORITY.search(base_url):
        raise ClientError(
            "The service's URL must look like http://127.0.0.1:8000. In a password, write @ as %40, / as %2F, : as %3A."
        )
    return url


def _authorization(token: str, has_login: bool) -> dict[str, str]:
    """The header that carries `token`, if there is one. ClientError where it cannot; the error does not repeat it."""
    if not token:
        return {}
    if has_login:
        raise ClientError(
            "The service's URL has a login, and there is a token, too (DAIN_TOKEN or --token). "
            "A request carries one of them: leave the other out."
        )
    if not _VISIBLE.fullmatch(token):  # else the error of the HTTP library would show it
        raise ClientError(
            "The token (DAIN_TOKEN or --token) is not whole: give it as `dain keys add` printed it."
        )
    return {"Authorization": f"Bearer {token}"}


def _query(path: Path, options: Mapping[str, Any] | None) -> dict[str, str]:
    """The query that goes with the video at `path`."""
    texts = {
        name: json.dumps(value) if isinstance(value, Mapping) else str(value)
        for name, value in _given(options).items()
    }
    return {**texts, "filename": path.name}


def _given(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (options or {}).items() if value is not None}


def _part(path: Path, sha256: str) -> Path:
    """Where a result that is not whole yet lies: a name of this result's own, so that no other is taken for it."""
    return path.with_name(f"{path.name}.{sha256[:16]}.part")


def _check_free(path: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
