"""The worker process: `python -m worker.main` warms the model, then takes tasks until it is told to stop.

SIGTERM hands the tasks in hand back to the queue and ends. The process also ends, with status 70, when a task makes no
progress or the GPU fails, so it belongs under something that starts it again.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
import uuid
from functools import partial
from typing import Any

import click
import torch
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError
from redis.retry import Retry

from dain_core.errors import DainCoreError
from dain_core.runtime.budget import Budget
from dain_core.runtime.devices import named_device, usable_devices
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.profile import read_profile
from dain_core.weights.registry import named, registry
from service import __version__, traces
from service.jobs.machine import Jobs
from service.jobs.queue import Queue, WarmWorker
from service.jobs.workers import WorkerRecord, Workers
from service.logs import get_logger, log_to_stderr
from service.settings import Settings, read_settings
from worker import share, work
from worker.attempt import Runtime
from worker.media import encode
from worker.media.errors import MediaError
from worker.models import Models
from worker.telemetry import Telemetry, describe
from worker.watchdog import HUNG, Watchdog

log = get_logger("dain.worker")

CANNOT_WORK = 3  # the status of --list-devices where there is nothing to run a worker on


def connect(settings: Settings) -> Redis:
    """A Redis client that sits out a restart of Redis."""
    return Redis.from_url(
        settings.require_redis_url,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 5),
        retry_on_error=[ConnectionError, TimeoutError],
        health_check_interval=15,
    )


def load(settings: Settings) -> Models:
    """The models of a worker with these settings; the first is loaded."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    entries = registry(settings.models)
    device = named_device(settings.device)
    limit = share.limit(settings, device)
    load_one = partial(
        Interpolator.load,
        device=settings.device,
        precision=settings.precision,
        models=entries,
        memory=Budget(limit),  # one, for all models and their float32 twins
        backend=settings.backend,
        exports=settings.exports,
        profile=read_profile(settings.profile) if settings.profile else None,
    )
    exported_only = settings.backend.startswith("onnxruntime")
    names = [name for name in entries if not exported_only or (settings.exports / name).is_dir()]
    models = Models(load_one, settings.model, names)
    if models.device.type == "cuda":
        torch.cuda.set_device(models.device)  # nothing is to take memory on another GPU
    return models


def describe_worker(models: Models) -> WorkerRecord:
    """The record of this process. Its name is new: RQ refuses the name of a killed worker until its record expires."""
    interpolator = models.default
    return WorkerRecord(
        name=f"{platform.node()}-{uuid.uuid4().hex[:8]}",
        host=platform.node(),
        pid=os.getpid(),
        version=__version__,
        device=str(interpolator.device),
        device_name=describe(str(interpolator.device)),
        backend=interpolator.backend,
        model=interpolator.model_name,
        models=list(models.names),
        codecs=encode.codecs(has_gpu=interpolator.device.type == "cuda"),
        precision=interpolator.precision,
        ready=False,
        started_at=time.time(),
    )


def run(settings: Settings) -> int:
    """Work until told to stop; returns the exit status."""
    # Until `WarmWorker.run`, when nothing is in hand yet.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    traces.start("worker")
    redis, store = connect(settings), settings.require_store()
    watchdog = Watchdog(settings.stall_seconds)
    watchdog.start()
    models = load(settings)
    record = describe_worker(models)
    ttl = settings.worker_ttl_seconds
    workers = Workers(redis, ttl_seconds=ttl)
    telemetry = Telemetry(workers, record, ttl_seconds=ttl)
    telemetry.start()
    with watchdog.watch("the warm-up"):
        models.default.warm_up()
    draining = threading.Event()
    worker = WarmWorker(redis, record.name, on_drain=draining.set)
    runtime = Runtime(
        name=record.name,
        settings=settings,
        jobs=Jobs.from_settings(redis, settings),
        queue=Queue(redis),
        store=store,
        models=models,
        telemetry=telemetry,
        watchdog=watchdog,
        draining=draining,
        stop_after_task=worker.stop_after_task,
    )
    work.install(runtime)
    telemetry.also(worker.beat)
    telemetry.update(ready=True)
    log.info(
        "worker ready",
        worker=record.name,
        version=record.version,
        model=record.model,
        device=record.device_name,
        precision=record.precision,
        operators=record.backend,
    )
    try:
        worker.run()
    except RedisError as error:
        if not draining.is_set():
            raise
        log.warning("Redis is away at the end", error=str(error))
    finally:
        runtime.relay.finish()
        telemetry.stop()
    if runtime.device_errors:
        os._exit(HUNG)  # an end in good order would free GPU memory
    return 0 if draining.is_set() else HUNG


def print_devices(settings: Settings) -> None:
    """Print the devices to run one worker on each, as JSON; say so where a GPU is not one of them.

    Where the service has a bound of memory, say what that is enough for.

    Raises:
        DainCoreError: no such device or model, or a bound that is enough for nothing.
    """
    devices = usable_devices() if settings.device == "auto" else [str(named_device(settings.device))]
    name = "dain-lite" if settings.model == "auto" else settings.model
    entry = named(name, registry(settings.models))
    if settings.memory and devices == ["cpu"]:
        click.echo(share.room(settings.memory, name, entry.config), err=True)
    if settings.device == "auto" and devices == ["cpu"] and torch.cuda.is_available():
        click.echo(
            "The CUDA kernels are not built, so the GPU is not used: run python -m cuda_ext.build", err=True
        )
    click.echo(json.dumps(devices))


@click.command()
@click.option("--device", help="cpu, cuda or cuda:N; the setting DAIN_DEVICE otherwise.")
@click.option("--list-devices", is_flag=True, help="Print the devices for one worker each, as JSON, and end.")
def main(device: str | None, list_devices: bool) -> None:
    """Run one worker."""
    chosen: dict[str, Any] = {"device": device} if device else {}
    settings = read_settings(**chosen)
    if list_devices:
        try:
            print_devices(settings)
        except DainCoreError as error:
            click.echo(f"{error}. Nothing was started.", err=True)
            sys.exit(CANNOT_WORK)
        return
    log_to_stderr(settings)
    try:
        sys.exit(run(settings))
    except (DainCoreError, MediaError) as error:  # of the device, the models to serve, or FFmpeg
        sys.exit(f"{str(error).rstrip('.')}. Nothing was started.")


if __name__ == "__main__":
    main()
