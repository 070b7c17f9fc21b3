"""Prometheus metrics: the state of the whole service from Redis, and the requests of this process."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.service import Service
from service.jobs.records import TERMINAL
from service.jobs.webhooks import OUTCOMES
from service.jobs.workers import THROTTLES


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

    def watch(self, service: Service) -> None:
        """Adds what `service` knows; it is read at each scrape."""
        self.registry.register(ServiceCollector(service))
        waiting = "Long polls and streams of events that are open in this process."
        Gauge("dain_http_waiting", waiting, registry=self.registry).set_function(lambda: service.feed.waiters)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format. Raises RedisError where the state cannot be read."""
        return generate_latest(self.registry)


class ServiceCollector(Collector):
    """Reads Redis at each scrape, so that every API process reports the whole service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        return iter(())  # the registry asks when it is made, before Redis need answer

    def collect(self) -> Iterator[Metric]:
        yield from self._jobs()
        yield from self._workers()
        yield from self._webhooks()
        yield GaugeMetricFamily(
            "dain_uploads_waiting",
            "Uploads that wait to be looked into, in this process.",
            self._service.looks.waiting,
        )

    def _jobs(self) -> Iterator[Metric]:
        jobs = self._service.jobs
        states = GaugeMetricFamily("dain_jobs", "Jobs on record, by state.", labels=["status"])
        for status, count in jobs.counts().items():
            states.add_metric([status], count)
        yield states
        yield GaugeMetricFamily("dain_queue_depth", "Tasks waiting.", value=self._service.queue.depth())
        yield GaugeMetricFamily(
            "dain_queue_oldest_age_seconds",
            "How long the first waiting job has waited.",
            self._service.jobs.longest_wait(),
        )

        counters = jobs.counters()
        finished = CounterMetricFamily(
            "dain_jobs_finished", "Jobs that ended, by outcome.", labels=["outcome"]
        )
        for outcome in sorted(TERMINAL):
            finished.add_metric([outcome.value], counters.get(f"jobs_{outcome.value}", 0))
        yield finished
        stages = CounterMetricFamily(
            "dain_stage_seconds", "Time spent by workers, by stage.", labels=["stage"]
        )
        for name, value in sorted(counters.items()):
            if name.startswith("seconds_"):
                stages.add_metric([name.removeprefix("seconds_")], value)
        yield stages
        for name, text in (
            ("jobs_accepted", "Jobs accepted."),
            ("frames", "Frames delivered."),
            ("attempts_failed", "Attempts at a task that failed."),
        ):
            yield CounterMetricFamily(f"dain_{name}", text, value=counters.get(name, 0))

    def _workers(self) -> Iterator[Metric]:
        workers = self._service.workers.all()
        present = GaugeMetricFamily("dain_workers", "Living workers.", labels=["ready"])
        for ready in (True, False):
            present.add_metric([str(ready).lower()], sum(worker.ready is ready for worker in workers))
        yield present
        for name, text in (
            ("vram_used_bytes", "GPU memory in use."),
            ("vram_total_bytes", "GPU memory there is."),
            ("frames_per_second", "Output frames per second."),
        ):
            family = GaugeMetricFamily(f"dain_worker_{name}", text, labels=["worker", "device"])
            for worker in workers:
                family.add_metric([worker.name, worker.device], getattr(worker, name))
            yield family
        heat = GaugeMetricFamily(
            "dain_worker_temperature_celsius",
            "The highest temperature of each sensor.",
            labels=["worker", "device", "sensor"],
        )
        throttled = GaugeMetricFamily(
            "dain_worker_throttled",
            "1 while the worker's machine is slowed down for this, and for half a minute after.",
            labels=["worker", "device", "reason"],
        )
        modes = InfoMetricFamily(
            "dain_worker_power_mode", "The power mode of the worker's machine.", labels=["worker", "device"]
        )
        for worker in workers:
            of = [worker.name, worker.device]
            for sensor, celsius in worker.celsius.items():
                heat.add_metric([*of, sensor], celsius)
            for reason in THROTTLES:
                throttled.add_metric([*of, reason], reason in worker.throttled_by)
            if worker.power_mode:
                modes.add_metric(of, {"mode": worker.power_mode})
        yield from (heat, throttled, modes)

    def _webhooks(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "dain_webhooks_late_seconds",
            "How long the message to a webhook that is most overdue has waited for a sender.",
            self._service.deliveries.late_seconds(),
        )
        counters = self._service.jobs.counters()
        attempts = CounterMetricFamily(
            "dain_webhook_attempts", "Attempts at sending a message to a webhook.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            attempts.add_metric([outcome], counters.get(f"webhooks_{outcome}", 0))
        yield attempts


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
