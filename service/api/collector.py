"""The state of the whole service as Prometheus metrics, read at each scrape: any API process tells all of it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.api.service import Service
from service.jobs.names import created_at
from service.jobs.records import STAGE, TERMINAL
from service.jobs.webhooks import OUTCOMES
from service.jobs.workers import THROTTLES, WorkerRecord

PRIORITIES = ("low", "normal", "high")
TOTALS = {
    "jobs_accepted": "Jobs accepted.",
    "frames": "Frames delivered.",
    "new_frames": "Frames that the network made, of those delivered.",
    "recomputed_frames": "Frames made again in fp32, because half precision overflowed.",
    "replans": "Times a GPU's memory ran out, and frames were made in smaller parts from then on.",
    "attempts_failed": "Attempts at a task that failed.",
}
OF_A_WORKER = {
    "vram_used_bytes": "GPU memory in use.",
    "vram_total_bytes": "GPU memory there is.",
    "utilisation": "How busy the GPU is, or else the processors, from 0 to 1.",
    "watts": "Power that the GPU takes.",
    "frames_per_second": "Output frames per second, over the last minute of work.",
}


class ServiceCollector(Collector):
    """Reads Redis and the store at each scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        return iter(())  # the registry asks when it is made, before Redis need answer

    def collect(self) -> Iterator[Metric]:
        counters = self._service.jobs.counters()
        yield from self._queue()
        yield from self._jobs(counters)
        yield from _workers(self._service.workers.all())
        yield from self._webhooks(counters)
        yield from self._store()
        yield from self._redis()
        yield _gauge(
            "uploads_waiting",
            "Uploads that wait to be looked into, in this process.",
            self._service.looks.waiting,
        )

    def _queue(self) -> Iterator[Metric]:
        jobs, now = self._service.jobs, time.time()
        yield _gauge("queue_depth", "Tasks waiting.", self._service.queue.depth())
        yield _gauge(
            "queue_oldest_age_seconds", "How long the first waiting job has waited.", jobs.longest_wait()
        )
        waiting: Counter[str] = Counter()
        ages: defaultdict[str, float] = defaultdict(float)
        for job in jobs.backlog().jobs:
            if job.is_queued:
                priority = job.priority if job.priority in PRIORITIES else "normal"
                waiting[priority] += 1
                ages[priority] = max(ages[priority], now - created_at(job.id))
        depth = _family("queue_jobs", "Jobs waiting, by priority.", "priority")
        age = _family(
            "queue_age_seconds", "How long the oldest waiting job of a priority has waited.", "priority"
        )
        for priority in PRIORITIES:
            depth.add_metric([priority], waiting[priority])
            age.add_metric([priority], ages[priority])
        yield from (depth, age)

    def _jobs(self, counters: dict[str, float]) -> Iterator[Metric]:
        states = _family("jobs", "Jobs on record, by state.", "status")
        for status, count in self._service.jobs.counts().items():
            states.add_metric([status], count)
        yield states
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
            if name.startswith(STAGE):
                stages.add_metric([name.removeprefix(STAGE)], value)
        yield stages
        for name, text in TOTALS.items():
            yield CounterMetricFamily(f"dain_{name}", text, value=counters.get(name, 0))

    def _webhooks(self, counters: dict[str, float]) -> Iterator[Metric]:
        yield _gauge(
            "webhooks_late_seconds",
            "How long the message to a webhook that is most overdue has waited for a sender.",
            self._service.deliveries.late_seconds(),
        )
        attempts = CounterMetricFamily(
            "dain_webhook_attempts", "Attempts at sending a message to a webhook.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            attempts.add_metric([outcome], counters.get(f"webhooks_{outcome}", 0))
        yield attempts

    def _store(self) -> Iterator[Metric]:
        sizes = _family("store_bytes", "Files in the store, as the janitor last counted them.", "kind")
        for kind, size in self._service.jobs.stored().items():
            sizes.add_metric([kind], size)
        yield sizes
        yield _gauge(
            "store_min_free_bytes",
            "Space that uploads must leave free in the store.",
            self._service.settings.min_free_bytes,
        )
        with suppress(OSError):  # /readyz says why
            free = self._service.store.free_bytes()
            yield _gauge("store_free_bytes", "Space left in the store, where files are written first.", free)

    def _redis(self) -> Iterator[Metric]:
        memory = self._service.redis.info("memory")
        yield _gauge("redis_memory_bytes", "Memory that Redis has in use.", memory["used_memory"])
        yield _gauge(
            "redis_memory_limit_bytes", "Memory that Redis may use; 0: no limit.", memory["maxmemory"]
        )


def _workers(workers: list[WorkerRecord]) -> Iterator[Metric]:
    present = _family("workers", "Living workers.", "ready")
    for ready in (True, False):
        present.add_metric([str(ready).lower()], sum(worker.ready is ready for worker in workers))
    yield present
    for name, text in OF_A_WORKER.items():
        family = _family(f"worker_{name}", text, "worker", "device")
        for worker in workers:
            if (value := getattr(worker, name)) is not None:
                family.add_metric([worker.name, worker.device], value)
        yield family
    pixels = _family(
        "worker_megapixels_per_second",
        "New frames with a model, in megapixels per second, over the last minute of work.",
        "worker", "device", "model",
    )  # fmt: skip
    heat = _family(
        "worker_temperature_celsius", "The highest temperature of each sensor.", "worker", "device", "sensor"
    )
    throttled = _family(
        "worker_throttled",
        "1 while the worker's machine is slowed down for this, and for half a minute after.",
        "worker", "device", "reason",
    )  # fmt: skip
    modes = InfoMetricFamily(
        "dain_worker_power_mode", "The power mode of the worker's machine.", labels=["worker", "device"]
    )
    about = InfoMetricFamily(
        "dain_worker", "What each worker runs, and on what.", labels=["worker", "device"]
    )
    for worker in workers:
        of = [worker.name, worker.device]
        for model, rate in worker.megapixels_per_second.items():
            pixels.add_metric([*of, model], rate)
        for sensor, celsius in worker.celsius.items():
            heat.add_metric([*of, sensor], celsius)
        for reason in THROTTLES:
            throttled.add_metric([*of, reason], reason in worker.throttled_by)
        if worker.power_mode:
            modes.add_metric(of, {"mode": worker.power_mode})
        names = ("version", "host", "device_name", "backend", "model", "precision")
        about.add_metric(of, {name: str(getattr(worker, name) or "") for name in names})
    yield from (pixels, heat, throttled, modes, about)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dain_{name}", text, value=value)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dain_{name}", text, labels=labels)
