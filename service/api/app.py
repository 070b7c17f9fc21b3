"""The HTTP API. `create_app(settings)` makes the application; `python -m service.api.app` serves it."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__, traces
from service.api.auth import AuthMiddleware
from service.api.description import complete
from service.api.guard import GuardMiddleware
from service.api.metrics import Metrics, MetricsMiddleware
from service.api.problems import install_handlers
from service.api.requests import Requests
from service.api.routes import (
    docs,
    estimate,
    events,
    health,
    jobs,
    page,
    previews,
    results,
    session,
    submit,
    swagger,
    uploads,
    workers,
)
from service.api.server import Config, Server, listeners
from service.api.service import Service
from service.jobs.keys import check_exposure
from service.logs import log_to_stderr
from service.settings import Settings, read_settings

log = logging.getLogger(__name__)

DESCRIPTION = """Makes video smoother: upload a clip, get it back with more frames.

`POST /jobs` takes a video and answers 202 with a job; `GET /jobs/{id}` says how far it is; `GET /jobs/{id}/result`
is the finished file. Every error is an `application/problem+json` document whose `type` is stable."""


def create_app(settings: Settings) -> FastAPI:
    """Makes the API for `settings`, of which `redis_url` must be set.

    The API starts even where Redis does not answer; /readyz says so.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = await run_in_threadpool(Service.from_settings, settings)
        metrics.watch(service)
        await run_in_threadpool(service.prober.start)
        app.state.service = service
        try:
            async with service.feed.running():
                yield
        finally:
            service.close()

    app = Application(
        title="DAIN",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # the framework's pages load their scripts from another host
        redoc_url=None,
        # The framework's own spans have queries, which may be secret.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        redirect_slashes=False,  # such a redirect leads to whatever host the request names
    )
    metrics = Metrics()
    app.state.metrics = metrics
    app.add_middleware(AuthMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(GuardMiddleware, settings=settings)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    install_handlers(app)
    for routes in (
        submit,
        estimate,
        uploads,
        jobs,
        events,
        previews,
        results,
        workers,
        health,
        docs,
        swagger,
        page,
        session,
    ):
        app.include_router(routes.router)
    return app


class Application(FastAPI):
    """FastAPI that adds `nosniff` and the request's id to every response.

    No other middleware sees the responses to unexpected errors.
    """

    def openapi(self) -> dict[str, Any]:
        """The description of the API, whole."""
        if self.openapi_schema is None:
            self.openapi_schema = complete(super().openapi())
        return self.openapi_schema

    def build_middleware_stack(self) -> ASGIApp:
        return Requests(NoSniff(super().build_middleware_stack()))


class NoSniff:
    """Keeps browsers from guessing a response's type; a browser could otherwise run a result as a page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, send_with_header)


def main() -> None:
    """Serves the API of the environment's settings until SIGTERM or SIGINT."""
    settings = read_settings()
    log_to_stderr(settings)
    traces.start("api")
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit()
    )  # called when the server, which has its own, has ended
    serve(settings)


def serve(settings: Settings) -> None:
    """Serves the API until SIGTERM or SIGINT; ends the process where it cannot start."""
    _ = settings.require_redis_url
    check_exposure(settings)
    settings.require_store()
    config = Config(create_app(settings), host=settings.host, port=settings.port)
    server = Server(config)
    gc.freeze()  # else each full collection goes through all that was imported, and every answer waits for it
    with suppress(KeyboardInterrupt):
        server.run(listeners(config, settings.metrics_port))
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
