"""Problems: errors that a caller can act on, each of a kind in one table.

A problem becomes the document of RFC 9457. A failed job carries the same document as its `error`.
`service.api.problems` turns problems into HTTP responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import DainError

#: HTTP status and title by slug. A slug is part of the interface: clients tell problems apart by it.
PROBLEMS: dict[str, tuple[int, str]] = {
    # the request
    "invalid-request": (422, "The request cannot be understood"),
    "invalid-option": (422, "An option is unknown or out of its range"),
    "webhook-refused": (422, "The webhook cannot be used"),
    "invalid-upload": (400, "The body holds no complete upload"),
    "invalid-idempotency-key": (400, "The Idempotency-Key header is malformed"),
    "idempotency-key-reused": (422, "The Idempotency-Key belongs to another request"),
    "idempotency-key-in-use": (409, "A request with this Idempotency-Key is under way"),
    "upload-too-slow": (408, "The upload stalled"),
    "upload-too-large": (413, "The upload is too large"),
    "source-refused": (422, "The video's URL is not accepted"),
    "source-unreachable": (502, "The video could not be fetched from its URL"),
    "source-too-large": (413, "The video at the URL is too large"),
    "upload-not-found": (404, "There is no such upload"),
    "another-offset": (409, "The upload has another offset"),
    "checksum-mismatch": (460, "The bytes are not those of the checksum"),
    "unsupported-tus-version": (412, "The version of tus is not supported"),
    "upload-missing": (409, "The upload has not arrived"),
    "no-upload-links": (501, "The store takes no uploads itself"),
    "unsupported-media-type": (415, "The content type is not supported"),
    "unauthorized": (401, "A key is needed"),
    "forbidden": (403, "The key does not allow this"),
    "rate-limited": (429, "Too many requests"),
    "quota-exceeded": (429, "The key's quota is used up"),
    "too-much-work": (429, "The caller's jobs have too much work before them"),
    "unknown-host": (403, "The Host header is no name of this service"),
    "cross-site-request": (403, "The request comes from another web site"),
    "headers-too-large": (431, "The headers of the request are too large"),
    "invalid-event-id": (400, "The Last-Event-ID header is malformed"),
    "invalid-range": (400, "The Range header is malformed"),
    "range-not-satisfiable": (416, "The range lies outside the file"),
    # the video
    "unsupported-format": (415, "The video's format is not supported"),
    "unreadable-video": (422, "The file cannot be read as a video"),
    "no-video-stream": (422, "The file holds no video"),
    "damaged-video": (422, "The video is damaged"),
    "loss-refused": (422, "Something of the video would be lost, and the job is strict"),
    "limit-exceeded": (422, "The video is larger or longer than this service takes"),
    "codec-unavailable": (422, "The codec cannot be had for this video"),
    # the job
    "job-not-found": (404, "There is no such job"),
    "job-gone": (410, "The job was removed"),
    "job-not-finished": (409, "The job has not finished"),
    "no-preview": (404, "There is no preview of the job now"),
    "frames-unknown": (404, "It is not known which frames are new"),
    "job-failed": (409, "The job failed"),
    "job-cancelled": (409, "The job was cancelled"),
    "result-damaged": (410, "The result is damaged"),
    "result-expired": (410, "The result has expired"),
    "encode-failed": (500, "The result could not be made"),
    "model-failed": (500, "The model cannot be used"),
    "too-many-attempts": (500, "The job was given up after repeated failures"),
    "unreadable-record": (500, "The job's record cannot be read"),
    "stored-file-damaged": (500, "A stored file is damaged"),
    # the service
    "queue-full": (429, "Too many jobs are waiting"),
    "too-many-uploads": (429, "Too many of the caller's uploads are waiting"),
    "busy": (503, "More uploads are waiting than the service takes"),
    "redis-unavailable": (503, "The job queue does not answer"),
    "store-unavailable": (503, "The store does not answer"),
    "keys-unreadable": (503, "Nobody can be let in now"),
    "not-ready": (503, "The service cannot take work now"),
    "machine-failed": (503, "A machine of the service could not do its part"),
    "insufficient-storage": (507, "There is not enough disk space"),
    "internal-error": (500, "Something went wrong on our side"),
}


def figure(value: float) -> str:
    """`value` for a sentence, e.g. 1440, 14.4 or 0.0655: in whole numbers from 100 on, else in three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


class Problem(DainError):
    """An error that a caller can act on, e.g. ``Problem("queue-full", "9 jobs are waiting; try again later.")``.

    Args:
        slug: a key of `PROBLEMS`.
        detail: sentences that say what was wrong and what to do.
        headers: go with an HTTP response.
        extra: further members of the document.
    """

    def __init__(
        self, slug: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status, self.title = PROBLEMS[slug]
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra

    @classmethod
    def job_not_found(cls, job_id: str) -> Problem:
        return cls(
            "job-not-found", f"There is no job {job_id}; GET /jobs (`dain jobs`) lists those there are."
        )

    @classmethod
    def unreadable_record(cls, job_id: str, fields: Sequence[str]) -> Problem:
        return cls(
            "unreadable-record",
            f"The service cannot read {', '.join(fields)} in its record of job {job_id}; a later version may have "
            "written it. What is shown for these fields is a default. Update the service, or delete the job.",
            fields=list(fields),
        )

    @classmethod
    def quota_exceeded(cls, what: str, owner: str, *, limit: int, used: float, seconds: int) -> Problem:
        """`what` is `jobs`, `bytes` or `work`; `seconds` pass until there may be some again."""
        headers = {"Retry-After": str(seconds)}
        if what == "work":
            return cls(
                "too-much-work",
                f"The jobs of {owner} have {figure(used)} megapixels of new frames before them, and with this one it "
                f"would be more than the {limit} that are allowed. Send it when some of them are done, or cancel one.",
                headers=headers,
                limit=limit,
                used=round(used, 3),
            )
        used = int(used)
        if what == "jobs":
            detail = (
                f"{owner} has {used} jobs that are queued or running; this key allows {limit}. "
                "Wait until one has ended, or cancel one."
            )
        else:
            detail = (
                f"{owner} uploaded {used} bytes today; this key allows {limit}, and this one is larger than the rest. "
                f"Try again in {seconds} seconds, after midnight UTC."
            )
            headers |= {
                "RateLimit-Policy": f'"bytes";q={limit};qu="content-bytes";w=86400',
                "RateLimit": f'"bytes";r={max(limit - used, 0)};t={seconds}',
            }
        return cls("quota-exceeded", detail, headers=headers, quota=what, limit=limit, used=used)

    @classmethod
    def attempts_exhausted(cls, task: str, attempts: int) -> Problem:
        return cls(
            "too-many-attempts",
            f"The task {task} ended {attempts} times without a result, most likely because this video brings "
            "a worker down. Submit the video again if the workers failed for another reason.",
            task=task,
            attempts=attempts,
        )

    def as_dict(self, instance: str | None = None) -> dict[str, Any]:
        """The problem document; `instance` is the path of the request or the job that met the problem."""
        return problem_document(self.slug, self.status, self.title, self.detail, instance, **self.extra)


def problem_document(
    slug: str, status: int, title: str, detail: str, instance: str | None = None, **extra: Any
) -> dict[str, Any]:
    """The members of RFC 9457, and those in `extra`."""
    document = {"type": f"urn:dain:problem:{slug}", "title": title, "status": status, "detail": detail}
    if instance is not None:
        document["instance"] = instance
    return document | extra
