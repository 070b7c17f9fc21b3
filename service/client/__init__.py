"""A client of the HTTP API, for other programs and for the command line.

client = Client("http://127.0.0.1:8000")
job = client.submit(Path("in.mp4"), {"target_fps": "60"})
job = client.wait(job["id"], on_progress=print)
client.download(job["id"], Path("out.mp4"))
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

ATTEMPTS = 6
LONGEST_PAUSE = 30.0
CHUNK_BYTES = 2**20
PAGE = 200
IN_USE = "urn:dain:problem:idempotency-key-in-use"

T = TypeVar("T")


class ClientError(Exception):
    """The service refused, or could not be reached. `problem` is its problem document, where it sent one."""

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problem = dict(problem or {})

    @property
    def status(self) -> int | None:
        return self.problem.get("status")


class Client:
    """Speaks to the service at `base_url`. Every method raises ClientError.

    What can safely be sent again is, for about a minute: when the service says it is busy or away (429, 503) and, for
    all but `cancel`, when the connection fails.
    """

    def __init__(self, base_url: str, *, timeout: float = 60.0) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self, path: Path, options: Mapping[str, Any] | None = None, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Uploads the video at `path`; returns the job. However often it has to be sent, there is one job."""
        given = {name: str(value) for name, value in (options or {}).items() if value is not None}
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
            "Idempotency-Key": f'"{idempotency_key or uuid.uuid4()}"',
        }

        def send() -> dict[str, Any]:
            with path.open("rb") as file:
                body = iter(lambda: file.read(CHUNK_BYTES), b"")
                query = {**given, "filename": path.name}
                return self._json("POST", "/jobs", params=query, headers=headers, content=body)

        return persist(send)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it stands."""
        return persist(lambda: self._json("GET", f"/jobs/{job_id}"))

    def jobs(self, status: str | None = None) -> list[dict[str, Any]]:
        """All jobs, newest first; or those with one status."""
        query = {"limit": str(PAGE)} | ({"status": status} if status else {})
        found: list[dict[str, Any]] = []
        while True:
            page = persist(lambda: self._json("GET", "/jobs", params=query))
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
        """Waits until the job has ended, well or not, and returns it; `on_progress` gets it at each look."""
        while True:
            job = self.job(job_id)
            if on_progress is not None:
                on_progress(job)
            if job["finished_at"] is not None:
                return job
            time.sleep(interval)

    def download(self, job_id: str, path: Path) -> None:
        """Fetches the result to `path`, which appears only once it is whole and its SHA-256 agrees.

        What an earlier call left in `<path>.part` is not fetched again.
        """
        part = path.with_name(f"{path.name}.part")
        etag = persist(lambda: self._fetch(job_id, part))
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if f'"{digest}"' != etag:
            part.unlink()
            raise ClientError(f"The result of job {job_id} arrived damaged; download it again.")
        part.replace(path)

    def _fetch(self, job_id: str, part: Path) -> str:
        """Completes the file `part`; returns the result's ETag."""
        output = self.job(job_id)["output"]
        have = part.stat().st_size if part.exists() else 0
        headers = {}
        if output and 0 < have < output["size_bytes"]:
            headers = {"Range": f"bytes={have}-", "If-Range": f'"{output["sha256"]}"'}
        with self._http.stream("GET", f"/jobs/{job_id}/result", headers=headers) as response:
            raise_for_problem(response)
            with part.open("ab" if response.status_code == 206 else "wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
            return response.headers["ETag"]

    def cancel(self, job_id: str) -> dict[str, Any] | None:
        """Cancels the job and returns it, or removes one that had ended and returns None."""
        response = self._request("DELETE", f"/jobs/{job_id}")
        return None if response.status_code == 204 else response.json()

    def workers(self) -> list[dict[str, Any]]:
        """The workers that are alive."""
        return persist(lambda: self._json("GET", "/workers"))

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        return self._request(method, path, **arguments).json()

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        response = self._http.request(method, path, **arguments)
        raise_for_problem(response)
        return response


class Again(ClientError):
    """A refusal that passes: worth another attempt after `pause` seconds, or the usual time where it is None."""

    def __init__(self, message: str, problem: Mapping[str, Any], pause: float | None) -> None:
        super().__init__(message, problem)
        self.pause = pause


def raise_for_problem(response: httpx.Response) -> None:
    """ClientError unless the response is a success; `Again` where a later attempt may fare better."""
    if response.is_success:
        return
    response.read()
    try:
        problem = response.json()
        message = str(problem["detail"])
    except (ValueError, LookupError, TypeError):  # a proxy's page, say
        problem = {"status": response.status_code}
        message = f"{response.url} answered {response.status_code} {response.reason_phrase}"
    if response.status_code in (429, 503) or problem.get("type") == IN_USE:
        seconds = response.headers.get("Retry-After", "")
        raise Again(message, problem, float(seconds) if seconds.isdecimal() else None)
    raise ClientError(message, problem)


def persist(call: Callable[[], T]) -> T:
    """Makes a call that may safely be made again, until it succeeds, is refused, or `ATTEMPTS` have failed."""
    for attempt in range(1, ATTEMPTS + 1):
        pause: float | None = None
        try:
            return call()
        except Again as again:
            if attempt == ATTEMPTS:
                raise
            pause = again.pause
        except httpx.TransportError as error:
            if attempt == ATTEMPTS:
                raise ClientError(f"The service cannot be reached: {error}") from error
        time.sleep(min(2.0 ** (attempt - 1) / 2 if pause is None else pause, LONGEST_PAUSE))
    raise AssertionError("the last attempt returns or raises")
