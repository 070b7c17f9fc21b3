"""Problems over HTTP: how an error becomes a response, and how the OpenAPI description lists it."""

from __future__ import annotations

import logging
import uuid
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.jobs.problems import PROBLEMS, Problem, problem_document
from service.store import StoreUnavailable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


#: What any route may answer, and what one that wants a key may, whatever it is for.
ANYWHERE = ("unknown-host", "cross-site-request", "internal-error")
KEYED = ("unauthorized", "forbidden", "rate-limited", "keys-unreadable", "redis-unavailable")


class ProblemDocument(BaseModel):
    """An error as RFC 9457 describes it."""

    type: str = Field(description="urn:dain:problem:<slug>; clients tell problems apart by it")
    title: str
    status: int
    detail: str = Field(description="what was wrong, and what to do")
    instance: str | None = None


REFERENCE = {"$ref": "#/components/schemas/ProblemDocument"}


def documented(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route that may answer with the problems `slugs`, beside those of any route."""
    responses: dict[int | str, dict[str, Any]] = {}
    for slug in slugs:
        status, title = PROBLEMS[slug]
        document = problem_document(slug, status, title, "What was wrong, and what to do.")
        new = {"content": {MEDIA_TYPE: {"schema": REFERENCE, "examples": {}}}, "description": ""}
        examples = responses.setdefault(status, new)["content"][MEDIA_TYPE]["examples"]
        examples[slug] = {"summary": title, "value": document}
    return responses


def problem_response(problem: Problem, request: Request) -> JSONResponse:
    """The HTTP response that carries `problem`; its `instance` is the path of `request`."""
    # The server would read the rest of a refused upload if it kept the connection.
    close = {"Connection": "close"} if request.method in ("PATCH", "POST") else {}
    request.state.problem = problem.slug  # for the request's line in the log
    document = problem.as_dict(instance=request.url.path)
    return JSONResponse(document, problem.status, problem.headers | close, media_type=MEDIA_TYPE)


def install_handlers(app: FastAPI) -> None:
    """Makes every error that leaves a route of `app` a problem document."""
    handlers: dict[type[Exception], Any] = {
        Problem: _on_problem,
        RequestValidationError: _on_invalid_request,
        HTTPException: _on_http_exception,
        RedisError: _on_redis_error,
        StoreUnavailable: _on_store_unavailable,
        Exception: _on_unexpected,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)


async def _on_problem(request: Request, error: Problem) -> JSONResponse:
    return problem_response(error, request)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    faults = [
        f"{'.'.join(map(str, fault['loc'][1:]))} was {str(fault['input'])[:100]!r}: {fault['msg']}"
        for fault in error.errors()
    ]
    return problem_response(Problem("invalid-request", "; ".join(faults)), request)


async def _on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
    """The framework's own refusals: an unknown path, a wrong method."""
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {error.detail}. GET /docs lists what there is."
    slug = title.lower().replace(" ", "-")
    document = problem_document(slug, error.status_code, title, detail, request.url.path)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return JSONResponse(document, error.status_code, headers, media_type=MEDIA_TYPE)


def _allowed_methods(request: Request) -> list[str]:
    """The methods of every route on this path; the framework names those of the first route only."""

    def taken(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if taken(method)]


async def _on_redis_error(request: Request, error: RedisError) -> JSONResponse:
    return problem_response(redis_unavailable(error), request)


def redis_unavailable(error: RedisError) -> Problem:
    """Redis is down, loading, full or read-only: this passes, or an operator mends it."""
    log.error("Redis: %r", error)
    return Problem(
        "redis-unavailable", "The job queue does not answer; try again shortly.", headers={"Retry-After": "5"}
    )


async def _on_store_unavailable(request: Request, error: StoreUnavailable) -> JSONResponse:
    """An operator reads the reason in the log; it may name what is no caller's business."""
    log.error("%s", error)
    problem = Problem(
        "store-unavailable",
        "The service cannot reach its store of files; try again shortly.",
        headers={"Retry-After": "10"},
    )
    return problem_response(problem, request)


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    error_id = uuid.uuid4().hex[:12]
    log.error("error %s in %s %s", error_id, request.method, request.url.path, exc_info=error)
    detail = f"The service failed unexpectedly. Try again; if it persists, report error {error_id}."
    return problem_response(Problem("internal-error", detail, error_id=error_id), request)
