"""What a call to the service can end in. Every error is a `ClientError`.

    ClientError
      Unreachable           no answer: nothing listens there, the name is unknown, the connection broke
      TimedOut              `wait` ended before the job
      Damaged               the result arrived damaged
      Refused               the same request would be refused again
        Unauthorized, Forbidden, NotFound, Gone, InvalidRequest, VideoRefused, JobNotFinished
      Busy                  the same request may succeed later; the client has repeated it as long as it makes sense
        QueueFull, RateLimited, QuotaExceeded, Unavailable
      ServiceError          something went wrong at the service
        NoSpace
      JobFailed, JobCancelled

What is wrong with a file of this machine stays an OSError.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from .results import Job

URN = "urn:dain:problem:"


class ClientError(Exception):
    """A call to the service came to nothing. The text is sentences that say what to do; no secret is in them.

    `problem` is the problem document that the service sent (RFC 9457), or empty.
    """

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problem = dict(problem or {})

    @property
    def status(self) -> int | None:
        """The HTTP status of the response; None where there was no response."""
        return self.problem.get("status")

    @property
    def slug(self) -> str:
        """The kind of problem, e.g. ``job-not-found``, which never changes its meaning; "" where there is none."""
        return str(self.problem.get("type", "")).removeprefix(URN)


class Unreachable(ClientError):
    """The service gave no answer."""


class TimedOut(ClientError):
    """The time that `wait` was given is over. The job goes on; `job` is the job as it stood."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class Damaged(ClientError):
    """The result that arrived has another SHA-256 than the one at the service."""


class Refused(ClientError):
    """The service refused the request, and would refuse it again."""


class Unauthorized(Refused):
    """A token is needed, or the token belongs to no key."""


class Forbidden(Refused):
    """The key does not allow this, or the service does not serve who asks."""


class NotFound(Refused):
    """There is no such job, upload or path, at least none of the caller's."""


class Gone(Refused):
    """The job was removed, or its result has expired or is damaged."""


class InvalidRequest(Refused):
    """An option, a header or the form of the request is wrong."""


class VideoRefused(Refused):
    """The video is no video, is damaged, or is more than the service takes."""


class JobNotFinished(Refused):
    """The job has no result yet."""


class Busy(ClientError):
    """The request may succeed later: in `retry_after` seconds, where the service says so."""

    def __init__(
        self, message: str, problem: Mapping[str, Any] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, problem)
        self.retry_after = retry_after


class QueueFull(Busy):
    """Too many jobs or uploads wait at the service."""


class RateLimited(Busy):
    """Too many requests came from this caller."""


class QuotaExceeded(Busy):
    """The caller has as many jobs, bytes or work as the key allows."""


class Unavailable(Busy):
    """The service cannot answer now: it starts, stops, or lacks its queue or its store."""


class ServiceError(ClientError):
    """Something went wrong at the service, or what answered is no such service."""


class NoSpace(ServiceError):
    """The service has not enough disk space."""


class _Ended(ClientError):
    """A job ended without a result. `job` is the job, where the call had it; `problem` says why."""

    def __init__(
        self, message: str, problem: Mapping[str, Any] | None = None, job: Job | None = None
    ) -> None:
        super().__init__(message, problem)
        self.job = job


class JobFailed(_Ended):
    """The job failed; `problem` is the job's `error`, and `job` the job, where the call had it."""


class JobCancelled(_Ended):
    """The job was cancelled; `job` is the job, where the call had it."""


IN_USE = "idempotency-key-in-use"
ANOTHER_OFFSET = "another-offset"
NO_PREVIEW = "no-preview"

_BY_SLUG: dict[str, type[ClientError]] = {
    IN_USE: Busy,
    "queue-full": QueueFull,
    "too-many-uploads": QueueFull,
    "quota-exceeded": QuotaExceeded,
    "too-much-work": QuotaExceeded,
    "job-not-finished": JobNotFinished,
    "job-failed": JobFailed,
    "job-cancelled": JobCancelled,
    **dict.fromkeys(
        (
            "damaged-video",
            "limit-exceeded",
            "loss-refused",
            "no-video-stream",
            "source-refused",
            "source-too-large",
            "source-unreachable",
            "unreadable-video",
            "unsupported-format",
            "upload-too-large",
        ),
        VideoRefused,
    ),
}
_BY_STATUS: dict[int, type[ClientError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    410: Gone,
    429: RateLimited,
    502: Unavailable,  # so does a proxy answer while the service is started again
    503: Unavailable,
    504: Unavailable,
    507: NoSpace,
}


def refusal(response: httpx.Response) -> ClientError | None:
    """The error that `response`, whose body was read, stands for; None where it is a success or 304."""
    if response.is_success or response.status_code == 304:
        return None
    try:
        problem = response.json()
        message = str(problem["detail"])
    except (ValueError, LookupError, TypeError):  # a proxy's page, say
        problem = {"status": response.status_code}
        place = response.url.copy_with(query=None)  # the query of a link to a store is a login
        message = f"{place} answered {response.status_code} {response.reason_phrase}."
        if response.status_code in (404, 405, 501):
            message += " A DAIN service would say more: is the address right?"
    if response.status_code == 401:
        message += " The client and the commands send the token in DAIN_TOKEN (or --token)."
    slug = str(problem.get("type", "")).removeprefix(URN)
    usual = InvalidRequest if 400 <= response.status_code < 500 else ServiceError
    kind = _BY_SLUG.get(slug) or _BY_STATUS.get(response.status_code, usual)
    if issubclass(kind, Busy):
        seconds = response.headers.get("Retry-After", "")
        return kind(message, problem, float(seconds) if seconds.isdecimal() else None)
    return kind(message, problem)


def unreachable(url: object, error: httpx.RequestError) -> Unreachable:
    """The error of a request to `url` that `error` ended."""
    causes = set(map(type, _causes(error)))
    if isinstance(error, httpx.TimeoutException):
        reason = "it does not answer in time"
    elif ConnectionRefusedError in causes:
        reason = "nothing listens there"
    elif socket.gaierror in causes:
        reason = "no host of this name is known"
    elif ssl.SSLError in causes:  # of a certificate it is a kind of its own
        reason = "no TLS is understood there; where it is plain HTTP, the URL begins with http://"
    else:
        reason = str(error) or type(error).__name__
    return Unreachable(f"The service at {url} cannot be reached: {reason}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what led to it."""
    if error is not None:
        yield error
        yield from _causes(error.__cause__ or error.__context__)
        for each in getattr(error, "exceptions", ()):  # of a group, as of several addresses
            yield from _causes(each)
