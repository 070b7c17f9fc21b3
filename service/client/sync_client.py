"""The calls of the API as methods of `Client`. This module is made of `async_client`: change that one.

`python -m tests.service.client.halves` writes this one anew.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import httpx

from .errors import (
    ANOTHER_OFFSET,
    NO_PREVIEW,
    Busy,
    ClientError,
    Damaged,
    Gone,
    JobCancelled,
    JobFailed,
    NotFound,
    ServiceError,
    TimedOut,
    Unreachable,
    VideoRefused,
    refusal,
    unreachable,
)
from .events import Event, EventReader
from .options import Options
from .requests import authorization, given, job_path, parsed_url, query_of
from .results import Estimate, Frames, Job, Output, Worker
from .retries import BUSY_SECONDS, CONNECTION_SECONDS, FIRST_PAUSE, Patience
from .sync_io import in_thread, sleep
from .videos import CHUNK_BYTES, OnBytes, Source, Video

RESUMABLE_BYTES = 64 * 2**20  # from which a video is sent in pieces
PIECE_BYTES = 16 * 2**20  # that are sent again where the connection breaks
TUS = {"Tus-Resumable": "1.0.0"}  # docs/uploads.md
PAGE = 200
WAIT_SECONDS = 25.0  # of one long poll; proxies give up after 30 or 60
QUIET_SECONDS = 60.0  # that a stream of events may be silent; the service sends something every 15
# The service answers an upload once it has looked through all of it, which takes a slow disk long.
ANSWER_SECONDS = 600.0
FETCH_SECONDS = 2 * ANSWER_SECONDS  # the service fetches for as long as one of the two, and then looks
SLOWEST_DISK = 5e6  # bytes/s

T = TypeVar("T")


class Client:
    """Speaks to the service at `base_url`, e.g. ``http://127.0.0.1:8000``; sends a name and password in it as a login.

    Args:
        token: what `dain keys add` printed; None: the environment's DAIN_TOKEN, if there is one. It may not go with a
            login, since a request carries one of them.
        timeout: the longest silence in seconds that a call bears; `submit` waits longer for the answer to an upload.
        patience: seconds of pauses for which a call that cannot reach the service is repeated. None: 30 for a service
            that this client has reached before, 0 where nothing has ever answered.
        headers: go with every request to the service, e.g. for a proxy before it.
        on_retry: is told of a failure that is not the last, and of the seconds until the call is repeated.

    Every method raises ClientError, and OSError for what is wrong with a file. Every method repeats what failed: while
    the service is busy (429, 502 to 504) for minutes, and while the connection fails for `patience`. However often a
    request has to be sent, it takes effect once.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeout: float = 60.0,
        patience: float | None = None,
        headers: Mapping[str, str] | None = None,
        on_retry: Callable[[ClientError, float], None] | None = None,
    ) -> None:
        url = parsed_url(base_url)
        # The login goes into a header: no message or log that shows a request's URL shows the password.
        login = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        self.url = url.copy_with(userinfo=b"")
        self._timeout = timeout
        self._patience = patience
        self._on_retry = on_retry
        self._reached = False
        self._http = httpx.Client(
            base_url=self.url,
            timeout=timeout,
            auth=login,
            headers={**(headers or {}), **authorization(token, has_login=login is not None)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to the service."""
        self._http.close()

    # -- jobs -------------------------------------------------------------------------------------

    def submit(
        self,
        video: Video,
        options: Options | Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        *,
        filename: str | None = None,
        mask: str | os.PathLike[str] | None = None,
        on_progress: OnBytes | None = None,
    ) -> Job:
        """Uploads a video and returns the job. However often it has to be sent, there is one job.

        Args:
            video: a path, bytes, an open binary file, or pieces of bytes.
            options: those of POST /jobs, e.g. ``{"target_fps": "60", "metadata": {"user": "42"}}``; None counts as not
                given.
            idempotency_key: two calls with one key make one job.
            filename: the video's name, where it has none of its own, or another.
            mask: a PNG of what stands still in the video. With one, the video is sent in one piece.
            on_progress: is told how many bytes of how many have been sent. A large video is sent in pieces: where the
                connection breaks, one piece is sent again.
        """
        headers = {"Idempotency-Key": f'"{idempotency_key or uuid.uuid4()}"'}
        with in_thread(Source, video, filename) as source:
            _check_size(source)
            if mask is not None:
                return Job.of(self._send_with_mask(source, Path(mask), options, headers))
            return Job.of(self._send_video("/jobs", source, options, headers, on_progress))

    def submit_url(
        self,
        source_url: str,
        options: Options | Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """As `submit`, for a video that the service fetches from `source_url`; returns once it has it."""
        headers = {"Idempotency-Key": f'"{idempotency_key or uuid.uuid4()}"'}
        return Job.of(self._send_url("/jobs", source_url, options, headers))

    def estimate(
        self,
        video: Video,
        options: Options | Mapping[str, Any] | None = None,
        *,
        filename: str | None = None,
        on_progress: OnBytes | None = None,
    ) -> Estimate:
        """What a job of the video would take: frames, work, seconds, place in the queue. None is started."""
        with in_thread(Source, video, filename) as source:
            _check_size(source)
            return Estimate.of(self._send_video("/jobs/estimate", source, options, {}, on_progress))

    def estimate_url(self, source_url: str, options: Options | Mapping[str, Any] | None = None) -> Estimate:
        """As `estimate`, for a video that the service fetches from `source_url`."""
        return Estimate.of(self._send_url("/jobs/estimate", source_url, options, {}))

    def job(self, job_id: str) -> Job:
        """The job as it stands."""
        return Job.of(self._get(job_path(job_id)))

    def jobs(
        self,
        status: str | None = None,
        *,
        reference: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """The jobs, newest first, at most `limit`: all, or those with a status, a reference, and all of `metadata`."""
        asked = {"status": status, "reference": reference}
        query = {"limit": str(min(PAGE, limit or PAGE))} | {
            name: value for name, value in asked.items() if value
        }
        query |= {f"metadata.{name}": value for name, value in (metadata or {}).items()}
        found: list[Job] = []
        while True:
            page = self._get("/jobs", params=query)
            found += map(Job.of, page["jobs"])
            if page["next_cursor"] is None or limit is not None and len(found) >= limit:
                return found[:limit]
            query["cursor"] = page["next_cursor"]

    def wait(
        self,
        job_id: str,
        on_progress: Callable[[Job], None] | None = None,
        *,
        interval: float = 1.0,
        timeout: float | None = None,
    ) -> Job:
        """Waits until the job has succeeded, and returns it.

        `on_progress` gets the job at once, then with each state and each percent of its progress, at most once in
        `interval` seconds. An older service answers without waiting, and is asked every `interval` seconds.

        Raises:
            JobFailed, JobCancelled: it ended so; the error has it as `job`.
            TimedOut: it had not ended after `timeout` seconds. It goes on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        query, known = {"wait": "0"}, dict[str, str]()
        while True:
            response = self._persist(
                partial(self._request, "GET", job_path(job_id), params=query, headers=known)
            )
            if response.status_code != 304:
                job = Job.of(_document(response))
                if on_progress is not None:
                    on_progress(job)
                if job.is_over:
                    return _succeeded(job)
            left = WAIT_SECONDS if end is None else end - time.monotonic()
            if left <= 0:
                raise TimedOut(f"Job {job_id} was {job.status} after {timeout:g} s, and goes on.", job)
            etag = response.headers.get("ETag")
            if etag is not None:
                query = {"wait": f"{min(WAIT_SECONDS, self._timeout / 2, left):g}"}
            if etag is None or on_progress is not None:
                known = {} if etag is None else {"If-None-Match": etag}
                sleep(min(interval, left))

    def events(self, job_id: str | None = None, *, after: str | None = None) -> Iterator[Event]:
        """The events of a job until it is over, or of all jobs without an end, as they happen.

        They begin behind the event with the id `after`, else now. The first of a job is then `job`, the job as it
        stands. Where the connection breaks, they go on behind the last; where events are no longer kept by then, with
        one of the type `reset`.
        """
        path = "/events" if job_id is None else f"{job_path(job_id)}/events"
        while True:
            response = self._persist(partial(self._open_events, path, after))
            try:
                if response.status_code == 204:
                    return
                reader = EventReader()
                for piece in response.iter_bytes():
                    for event in reader.feed(piece):
                        after = event.id or after
                        if event.type:
                            yield event
                        if job_id is not None and event.is_last:
                            return
            except httpx.RequestError:
                pass  # it goes on where it was
            finally:
                response.close()
            sleep(FIRST_PAUSE)

    def preview(self, job_id: str) -> bytes | None:
        """The newest new frame of a running job, as a JPEG with the source frame before it to the left; None: none yet.

        Workers make such pictures while somebody asks, one in two seconds: so the first call finds none.
        """
        try:
            return (self._persist(partial(self._request, "GET", f"{job_path(job_id)}/preview"))).content
        except NotFound as error:
            if error.slug != NO_PREVIEW:
                raise
        return None

    def deliveries(self, job_id: str) -> list[dict[str, Any]]:
        """The last attempts at sending the job's events to its webhook, newest first."""
        found: list[dict[str, Any]] = (self._get(f"{job_path(job_id)}/deliveries"))["attempts"]
        return found

    def cancel(self, job_id: str) -> Job:
        """Stops the job and returns it; one that is over stays as it is."""
        return Job.of(self._persist(partial(self._ask, "POST", f"{job_path(job_id)}/cancel")))

    def delete(self, job_id: str) -> None:
        """Removes the job and its result; one that is under way is stopped first."""
        self.job(job_id)  # NotFound where there is none
        with suppress(NotFound, Gone):  # the answer to an earlier attempt was lost
            while True:
                response = self._persist(partial(self._request, "DELETE", job_path(job_id)))
                if response.status_code == 204:
                    return

    # -- results ----------------------------------------------------------------------------------

    def download(
        self,
        job_id: str,
        target: str | os.PathLike[str] | IO[bytes],
        *,
        overwrite: bool = False,
        on_progress: OnBytes | None = None,
    ) -> None:
        """Fetches the result to a path, or into a file that is open for writing bytes.

        The path appears once the result is whole and its SHA-256 agrees. What has arrived lies beside it as
        `<path>.<start of the hash>.part`; a later call goes on from there. `on_progress` is told how many bytes of how
        many are there.

        Raises:
            FileExistsError: the path is there, and `overwrite` is not given; or another call fetches the result to it.
            Damaged: another SHA-256 arrived. An open file has it then.
            JobNotFinished, JobFailed, JobCancelled, Gone: there is no result.
        """
        if isinstance(target, str | os.PathLike):
            self._download(job_id, Path(target), overwrite, on_progress)
            return
        for piece in self.result(job_id, on_progress=on_progress):
            in_thread(target.write, piece)

    def result(self, job_id: str, *, on_progress: OnBytes | None = None) -> Iterator[bytes]:
        """The bytes of the result, as they arrive; Damaged at their end where their SHA-256 is another."""
        output = self._output(job_id)
        digest = hashlib.sha256()
        for piece in self._pieces(job_id, output, 0, on_progress):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != output.sha256:
            raise _damaged(job_id)

    def frames(self, job_id: str) -> Frames:
        """Which frames of the result are the source's and which are new, and when each is shown.

        Raises as `download` does; NotFound for a result of an earlier release, which did not note it.
        """
        return Frames.of(self._get(f"{job_path(job_id)}/result/frames"))

    def _download(self, job_id: str, path: Path, overwrite: bool, on_progress: OnBytes | None) -> None:
        _check_free(path, overwrite)
        output = self._output(job_id)
        # A name of this result's own, so that no other is taken for it.
        part = path.with_name(f"{path.name}.{output.sha256[:16]}.part")
        with in_thread(part.open, "ab") as file:
            _claim(file)
            if file.tell() > output.size_bytes:
                file.truncate(0)
            for piece in self._pieces(job_id, output, file.tell(), on_progress):
                in_thread(file.write, piece)
            file.flush()
            digest = in_thread(_sha256, part)
        try:
            if digest != output.sha256:
                raise _damaged(job_id)
            _check_free(path, overwrite)  # a call that was faster may have made it
        except (Damaged, FileExistsError):
            part.unlink()  # nobody would go on with it
            raise
        part.replace(path)

    def _output(self, job_id: str) -> Output:
        """The result's facts; raises what says why there is none."""
        while True:
            output = (self.job(job_id)).output
            if output is not None:
                return output
            with self._result(job_id, {}):
                pass  # it has just been finished

    def _pieces(self, job_id: str, output: Output, have: int, on_progress: OnBytes | None) -> Iterator[bytes]:
        """The bytes of a result from the one at `have` on; it goes on where a connection breaks."""
        patience = Patience()
        while have < output.size_bytes:
            headers = {"Range": f"bytes={have}-", "If-Range": f'"{output.sha256}"'} if have else {}
            try:
                with self._result(job_id, headers) as response:
                    passed = have if response.status_code == 200 else 0  # what a proxy sends again
                    for piece in response.iter_bytes(CHUNK_BYTES):
                        piece, passed = piece[passed:], max(passed - len(piece), 0)
                        if not piece:
                            continue
                        have, patience = have + len(piece), Patience()
                        if on_progress is not None:
                            on_progress(have, output.size_bytes)
                        yield piece
                return
            except (Busy, Unreachable) as failure:
                self._pause(patience, failure)

    @contextmanager
    def _result(self, job_id: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The answer with the result, from the service or from where it says that the result is."""
        with self._named_failures():
            with self._http.stream("GET", f"{job_path(job_id)}/result", headers=headers) as response:
                if not response.has_redirect_location:
                    _check(response)
                    yield response
                    return
            # Another server: it gets no login of ours, and knows the file by another tag.
            ranges = {name: value for name, value in headers.items() if name == "Range"}
            with (
                httpx.Client(timeout=self._timeout) as other,
                other.stream("GET", response.headers["Location"], headers=ranges) as response,
            ):
                _check(response)
                yield response

    # -- the service ------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """The workers that are alive."""
        return [Worker.of(worker) for worker in self._get("/workers")]

    def version(self) -> str | None:
        """The version of the service; None of one that does not say."""
        version: str | None = (self._get("/healthz")).get("version")
        return version

    # -- sending ----------------------------------------------------------------------------------

    def _send_video(
        self,
        path: str,
        source: Source,
        options: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        on_progress: OnBytes | None,
    ) -> Any:
        """Posts the video to `path` and returns the document of the answer."""
        seconds = self._answer_seconds(source)
        timeout = httpx.Timeout(self._timeout, read=seconds)
        query = query_of(options, source.name)
        upload = None
        if source.size >= RESUMABLE_BYTES:
            upload = self._begin_upload(source.size, query, seconds)
        if upload is None:

            def send() -> Any:
                content = self._content(source, on_progress)
                own = {"Content-Type": "application/octet-stream", "Content-Length": str(source.size)}
                return self._ask(
                    "POST", path, params=query, headers={**headers, **own}, content=content, timeout=timeout
                )

            return self._persist(send, seconds)
        try:
            self._send_pieces(upload, source, seconds, on_progress)
            query["upload"] = upload.rpartition("/")[2]
            call = partial(self._ask, "POST", path, params=query, headers=headers, timeout=timeout)
            return self._persist(call, seconds)
        finally:
            with suppress(ClientError):  # the service would forget it in a day
                self._request("DELETE", upload, headers=TUS)

    def _content(self, source: Source, on_progress: OnBytes | None) -> Iterator[bytes]:
        sent = 0
        while sent < source.size:
            chunk = in_thread(source.read, sent, CHUNK_BYTES)
            yield chunk
            sent += len(chunk)
            if on_progress is not None:
                on_progress(sent, source.size)

    def _begin_upload(self, size_bytes: int, query: Mapping[str, str], answer_seconds: float) -> str | None:
        """Where to send a video in pieces; None where the service takes none. Options in `query` are checked now."""
        headers = {**TUS, "Upload-Length": str(size_bytes)}
        try:
            response = self._persist(
                partial(
                    self._request, "POST", "/uploads", params=query, headers=headers, timeout=answer_seconds
                )
            )
        except ClientError as error:
            if error.status in (404, 405):  # a service from before there were any
                return None
            raise
        location: str = response.headers["Location"]
        return location

    def _send_pieces(
        self, upload: str, source: Source, answer_seconds: float, on_progress: OnBytes | None
    ) -> None:
        offset = 0
        while offset < source.size:
            # Patience with a failing connection begins anew with each piece.
            send = partial(self._send_piece, upload, source, offset, answer_seconds, on_progress)
            offset = self._persist(send)

    def _send_piece(
        self, upload: str, source: Source, offset: int, answer_seconds: float, on_progress: OnBytes | None
    ) -> int:
        """Sends the piece that begins at `offset`; returns where the next one begins."""
        piece = in_thread(source.read, offset, PIECE_BYTES)
        headers = {
            **TUS,
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(len(piece)),
            "Upload-Offset": str(offset),
            "Upload-Checksum": f"sha256 {base64.b64encode(hashlib.sha256(piece).digest()).decode()}",
        }
        with self._named_failures():
            content = self._chunks(piece, offset, source.size, on_progress)
            response = self._http.patch(upload, content=content, headers=headers, timeout=answer_seconds)
        error = refusal(response)
        if error is not None and error.slug != ANOTHER_OFFSET:
            raise error  # else the piece had arrived, and the answer was lost
        return int(response.headers["Upload-Offset"])

    def _chunks(self, piece: bytes, offset: int, size: int, on_progress: OnBytes | None) -> Iterator[bytes]:
        """The piece at `offset` of `size` bytes. Over a slow line it takes long, so each chunk is told of."""
        for start in range(0, len(piece), CHUNK_BYTES):
            chunk = piece[start : start + CHUNK_BYTES]
            yield chunk
            if on_progress is not None:
                on_progress(offset + start + len(chunk), size)

    def _send_with_mask(
        self, source: Source, mask: Path, options: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Any:
        seconds = self._answer_seconds(source)
        query = query_of(options, source.name)
        name = query.pop("filename")

        def send() -> Any:
            with mask.open("rb") as picture:
                files = {"mask": (mask.name, picture, "image/png"), "file": (name, source.file)}
                timeout = httpx.Timeout(self._timeout, read=seconds)
                return self._ask("POST", "/jobs", params=query, headers=headers, files=files, timeout=timeout)

        return self._persist(send, seconds)

    def _send_url(
        self, path: str, source_url: str, options: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Any:
        timeout = httpx.Timeout(self._timeout, read=max(self._timeout, FETCH_SECONDS))
        body = {**given(options), "source_url": source_url}
        call = partial(self._ask, "POST", path, json=body, headers=headers, timeout=timeout)
        return self._persist(call, FETCH_SECONDS)

    def _answer_seconds(self, source: Source) -> float:
        return max(self._timeout, ANSWER_SECONDS + source.size / SLOWEST_DISK)

    # -- asking -----------------------------------------------------------------------------------

    def _get(self, path: str, **arguments: Any) -> Any:
        return self._persist(partial(self._ask, "GET", path, **arguments))

    def _persist(self, call: Callable[[], T], in_use_seconds: float = BUSY_SECONDS) -> T:
        """Makes `call`, which must be safe to repeat, until it succeeds, is refused, or patience is at its end."""
        patience = Patience(in_use_seconds)
        while True:
            try:
                return call()
            except (Busy, Unreachable) as failure:
                self._pause(patience, failure)

    def _pause(self, patience: Patience, failure: Busy | Unreachable) -> None:
        usual = CONNECTION_SECONDS if self._reached else 0.0
        seconds = patience.pause(failure, usual if self._patience is None else self._patience)
        if self._on_retry is not None:
            self._on_retry(failure, seconds)
        sleep(seconds)

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        """The document that the service answers with."""
        return _document(self._request(method, path, **arguments))

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._named_failures():
            response = self._http.request(method, path, **arguments)
            _check(response)
        return response

    def _open_events(self, path: str, after: str | None) -> httpx.Response:
        """The response of a stream of events, to be closed."""
        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
        timeout = httpx.Timeout(self._timeout, read=max(self._timeout, QUIET_SECONDS))
        request = self._http.build_request("GET", path, headers=headers, timeout=timeout)
        with self._named_failures():
            response = self._http.send(request, stream=True)
            try:
                _check(response)
            except BaseException:
                response.close()
                raise
        return response

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Makes the errors of the HTTP library those of this one, and learns whether anything answers."""
        try:
            yield
        except httpx.RequestError as error:
            self._reached |= not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise unreachable(self.url, error) from error
        except ClientError:
            self._reached = True
            raise
        self._reached = True


def _check(response: httpx.Response) -> None:
    """Raises ClientError unless the response is a success or 304."""
    if not response.is_success:
        response.read()
    error = refusal(response)
    if error is not None:
        raise error


def _document(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        place = response.url.copy_with(query=None)
        raise ServiceError(
            f"{place} answered, but not as a DAIN service does; is the address right?"
        ) from None


def _check_size(source: Source) -> None:
    if not source.size:
        raise VideoRefused("The file is empty: there is no video in it to send.")


def _succeeded(job: Job) -> Job:
    """The job, which is over; raises JobFailed or JobCancelled where it has no result."""
    if job.status == "succeeded":
        return job
    if job.status == "cancelled":
        raise JobCancelled(f"Job {job.id} was cancelled.", job=job)
    problem = job.error or {}
    raise JobFailed(str(problem.get("detail", f"Job {job.id} is {job.status}.")), problem, job)


def _damaged(job_id: str) -> Damaged:
    return Damaged(f"The result of job {job_id} arrived damaged; download it again.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _claim(file: IO[bytes]) -> None:
    """Makes the file that a result is fetched to this call's own: what two write into it at once is damaged."""
    if sys.platform != "win32":  # there it could not be renamed while another has it open
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(errno.EEXIST, "Another call fetches it already", file.name) from None


def _check_free(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not (overwrite and (path.is_file() or not path.exists())):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
