"""Each request has an id, which the answer, the logs and the job that comes of it carry, and one line in the log."""

from __future__ import annotations

import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import traces
from service.logs import bound, get_logger

log = get_logger("dain.api")

HEADER = "X-Request-ID"
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
#: What machines ask again and again: a line and a trace each time would hide the others.
_ROUTINE = frozenset({"/healthz", "/readyz", "/metrics"})


class Requests:
    """Answers each request with its id: that of the header `X-Request-ID`, or one of our own where it has none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        begun = time.perf_counter()
        with bound(request_id=request_id), _span(scope) as span:
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                span.set(request_id=request_id)
                _describe(span, scope, status)
                self._log(scope, status, time.perf_counter() - begun)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        is_routine = scope["path"] in _ROUTINE and status < 400
        client, state = scope.get("client"), scope.get("state", {})
        caller = state.get("caller")
        say = log.debug if is_routine else log.info
        say(
            "request",
            method=scope["method"],
            path=scope["raw_path"].decode("ascii", "replace")[:500],  # without its query, and still quoted
            status=status,
            seconds=round(seconds, 4),
            client=client and client[0],
            owner=caller and caller.owner,
            problem=state.get("problem"),
        )


def _span(scope: Scope) -> AbstractContextManager[traces.Span]:
    if scope["path"] in _ROUTINE:
        return nullcontext(traces.Span())
    return traces.span(scope["method"], parent=Headers(scope=scope).get("traceparent"), kind="SERVER")


def _describe(span: traces.Span, scope: Scope, status: int) -> None:
    """Name a request's span, and give it the attributes that OpenTelemetry's conventions have for it."""
    route = getattr(scope.get("route"), "path", None)
    if route:
        span.name(f"{scope['method']} {route}")
    span.set_standard(
        {"http.request.method": scope["method"], "http.route": route, "http.response.status_code": status}
    )
