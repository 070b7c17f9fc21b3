"""Prometheus metrics: the state of the whole service (`service.api.collector`), and the requests of this process."""

from __future__ import annotations

import platform
import time

from prometheus_client import CollectorRegistry, Gauge, Histogram, Info, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.api.collector import ServiceCollector
from service.api.service import Service


class Metrics:
    """The metrics of one application; another application in the process has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "dain_http_request_duration_seconds",
            "Time from the first byte of a request to the last byte of its answer.",
            ("method", "route", "status"),
            registry=self.registry,
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 5, 30, 120, 600),
        )
        build = Info("dain_build", "What answers: the version of this process.", registry=self.registry)
        build.info({"version": __version__, "python": platform.python_version()})

    def watch(self, service: Service) -> None:
        """Adds what `service` knows; it is read at each scrape."""
        self.registry.register(ServiceCollector(service))
        waiting = "Long polls and streams of events that are open in this process."
        Gauge("dain_http_waiting", waiting, registry=self.registry).set_function(lambda: service.feed.waiters)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format. Raises RedisError where the state cannot be read."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Times each request under the template of its route, so that job ids make no new series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 500  # an error that passes through here becomes this

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begun = time.perf_counter()
        try:
            await self.app(scope, receive, send_and_see)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            if (
                route != "none" and b"wait=" in scope["query_string"]
            ):  # how long it takes says nothing of the service
                route += "?wait"
            method = scope["method"] if route != "none" else "any"
            self.metrics.requests.labels(method, route, str(status)).observe(time.perf_counter() - begun)
