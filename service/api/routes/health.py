"""Liveness, readiness and metrics."""

from __future__ import annotations

import logging
import os
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from redis.exceptions import RedisError

from service import __version__
from service.api.auth import AdminDep
from service.api.deps import ServiceDep
from service.api.problems import documented
from service.api.service import Service
from service.jobs.keys import KeysUnreadable
from service.jobs.problems import Problem

log = logging.getLogger(__name__)
router = APIRouter(tags=["health"])


#: Which service this process belongs to: the token that `dain up` gives it, or one of its own.
INSTANCE = os.environ.get("DAIN_INSTANCE") or uuid.uuid4().hex


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Says that this process answers, and its version; Redis, the store and the workers are not looked at."""
    return {"status": "ok", "version": __version__, "instance": INSTANCE}


@router.get("/readyz", responses=documented("not-ready"))
def ready(service: ServiceDep) -> dict[str, Any]:
    """Says whether a job would be worked on now.

    It is where Redis answers, the store has room, the keys can be read and a worker is warm.
    """
    unknown = "unknown without Redis"
    checks = {"redis": None, "store": store_fault(service), "keys": unknown, "workers": unknown}
    try:
        checks["keys"] = keys_fault(service)
        checks["workers"] = workers_fault(service)
    except RedisError as error:
        checks["redis"] = f"does not answer ({type(error).__name__})"
    faults = [f"{name}: {fault}" for name, fault in checks.items() if fault]
    if faults:
        detail = "; ".join(faults) + "."
        raise Problem(
            "not-ready",
            detail,
            headers={"Retry-After": "5"},
            checks={name: fault or "ok" for name, fault in checks.items()},
        )
    return {"status": "ready", "checks": dict.fromkeys(checks, "ok")}


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
def metrics(request: Request, caller: AdminDep) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def store_fault(service: Service) -> str | None:
    try:
        service.store.check()
        free = service.store.free_bytes()
    except OSError as error:
        return f"cannot be written to ({error.strerror or error})"
    if free < service.settings.min_free_bytes:
        return f"has {free} bytes free, fewer than the {service.settings.min_free_bytes:d} to be kept"
    return None


def keys_fault(service: Service) -> str | None:
    try:
        service.keys.all()
    except KeysUnreadable as error:  # its text, of records and paths, is not for everybody
        log.error("%s", error)
        return "cannot be read, so nobody is let in; the service's log says why"
    return None


def workers_fault(service: Service) -> str | None:
    workers = service.workers.all()
    if not workers:
        return "none is running"
    if not any(worker.ready for worker in workers):
        return "none has finished warming up"
    return None
