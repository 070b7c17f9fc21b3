"""Errors as RFC 9457 problem documents: one table from slug to status and title, and the handlers.

The same document is a failed job's ``error``.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: slug -> (HTTP status, title). A slug is part of the interface: clients tell problems apart by it.
PROBLEMS: dict[str, tuple[int, str]] = {
    # the request
    "invalid-request": (422, "The request cannot be understood"),
    "invalid-option": (422, "An option is unknown or out of its range"),
    "invalid-upload": (400, "The body holds no complete upload"),
    "invalid-idempotency-key": (400, "The Idempotency-Key header is malformed"),
    "idempotency-key-reused": (422, "The Idempotency-Key belongs to another request"),
    "idempotency-key-in-use": (409, "A request with this Idempotency-Key is under way"),
    "upload-too-slow": (408, "The upload stalled"),
    "upload-too-large": (413, "The upload is too large"),
    "unsupported-media-type": (415, "The content type is not supported"),
    # the video
    "unsupported-format": (415, "The video's format is not supported"),
    "unreadable-video": (422, "The file cannot be read as a video"),
    "no-video-stream": (422, "The file holds no video"),
    "damaged-video": (422, "The video is damaged"),
    "limit-exceeded": (422, "The video is larger or longer than this service takes"),
    # the job
    "job-not-found": (404, "There is no such job"),
    "job-gone": (410, "The job was removed"),
    "job-not-finished": (409, "The job has not finished"),
    "job-failed": (409, "The job failed"),
    "job-cancelled": (409, "The job was cancelled"),
    "result-expired": (410, "The result has expired"),
    "encode-failed": (500, "The result could not be made"),
    "too-many-attempts": (500, "The job was given up after repeated failures"),
    # the service
    "queue-full": (429, "Too many jobs are waiting"),
    "redis-unavailable": (503, "The job queue does not answer"),
    "not-ready": (503, "The service cannot take work now"),
    "insufficient-storage": (507, "There is not enough disk space"),
    "internal-error": (500, "Something went wrong on our side"),
}


class Problem(Exception):
    """An error that a caller can act on.

    `slug` is a key of `PROBLEMS`; `detail` says what was wrong and what to do; `headers` go with an HTTP
    response; `extra` are further members of the document.
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
        return cls("job-not-found", f"There is no job {job_id}; GET /jobs lists those there are.")

    @classmethod
    def attempts_exhausted(cls, task: str, attempts: int) -> Problem:
        return cls(
            "too-many-attempts",
            f"The task {task} ended {attempts} times without a result, most likely because this video brings "
            "a worker down. Submit it again if workers were failing for another reason.",
            task=task,
            attempts=attempts,
        )

    def as_dict(self, instance: str | None = None) -> dict[str, Any]:
        """The problem document; `instance` is the path of the request or job it happened to."""
        return problem_document(self.slug, self.status, self.title, self.detail, instance, **self.extra)


def problem_document(
    slug: str, status: int, title: str, detail: str, instance: str | None = None, **extra: Any
) -> dict[str, Any]:
    document = {"type": f"urn:dain:problem:{slug}", "title": title, "status": status, "detail": detail}
    if instance is not None:
        document["instance"] = instance
    return document | extra


def problem_response(problem: Problem, request: Request) -> JSONResponse:
    # What is left of a refused upload is not worth reading; on a connection to be kept, the server would.
    close = {"Connection": "close"} if request.method == "POST" else {}
    return JSONResponse(
        problem.as_dict(instance=request.url.path),
        problem.status,
        problem.headers | close,
        media_type=MEDIA_TYPE,
    )


async def _on_problem(request: Request, error: Problem) -> JSONResponse:
    return problem_response(error, request)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    faults = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()]
    return problem_response(Problem("invalid-request", "; ".join(faults)), request)


async def _on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
    """The framework's own refusals: unknown path, wrong method."""
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {error.detail}. GET /docs lists what there is."
    document = problem_document(
        title.lower().replace(" ", "-"), error.status_code, title, detail, request.url.path
    )
    return JSONResponse(document, error.status_code, error.headers, media_type=MEDIA_TYPE)


async def _on_redis_error(request: Request, error: RedisError) -> JSONResponse:
    """Redis is down, loading, full or read-only: all of it passes, or is the operator's to mend."""
    log.error("Redis: %r", error)
    problem = Problem(
        "redis-unavailable", "The job queue does not answer; try again shortly.", headers={"Retry-After": "5"}
    )
    return problem_response(problem, request)


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    error_id = uuid.uuid4().hex[:12]
    log.error("error %s in %s %s", error_id, request.method, request.url.path, exc_info=error)
    detail = f"The request failed unexpectedly. Try again; if it persists, report error {error_id}."
    return problem_response(Problem("internal-error", detail, error_id=error_id), request)


def install_handlers(app: FastAPI) -> None:
    """Makes every error that leaves a route of `app` a problem document."""
    handlers: dict[type[Exception], Any] = {
        Problem: _on_problem,
        RequestValidationError: _on_invalid_request,
        HTTPException: _on_http_exception,
        RedisError: _on_redis_error,
        Exception: _on_unexpected,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str = Field(description="urn:dain:problem:<slug>; what to tell problems apart by")
    title: str
    status: int
    detail: str = Field(description="what was wrong, and what to do")
    instance: str | None = None


def documented(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may end in these problems."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({PROBLEMS[slug][0] for slug in slugs}):
        titles = [PROBLEMS[slug][1] for slug in slugs if PROBLEMS[slug][0] == status]
        content = {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}}
        responses[status] = {"description": "; ".join(titles), "content": content}
    return responses
