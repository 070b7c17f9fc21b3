"""What RQ runs: `plan`, `segment` and `assemble`. Each may run twice, on any worker, and still happens once.

An attempt writes under its own token and is published by the compare-and-set that records it
(`Jobs.complete`, `Jobs.finish`); an attempt that lost its claim removes what it wrote. `_attempt` is the one
place that decides an outcome. To RQ a task is over when the worker can take the next: see `worker.relay`.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from redis.exceptions import RedisError

from dain_core.runtime.engine import Interpolator
from dain_core.runtime.memory import FrameTooLargeError
from service.jobs.machine import ASSEMBLE, PLAN, Claim, Jobs, Refused, new_token, segment_index, segment_name
from service.jobs.problems import Problem
from service.jobs.queue import Queue
from service.jobs.records import Job, Output, State
from service.settings import Settings
from service.store.local import Store
from worker import pipeline
from worker.lease import Drained, Lease, Void
from worker.media.ffmpeg import DISK_FULL, MediaError
from worker.media.probe import Limits
from worker.models import Models
from worker.plan import Plan
from worker.relay import Leg, Relay
from worker.telemetry import Telemetry

log = logging.getLogger("dain.worker")

T = TypeVar("T")

NOT_THE_VIDEO = ("encode-failed", "insufficient-storage")  # what another attempt may be spared
REDIS_PATIENCE = 600.0  # seconds to wait for Redis with finished work in hand before giving it up
HEAD_START = 2.0  # seconds before the end of a segment's work on the device that the next task begins


@dataclass
class Runtime:
    """Everything a task needs, made once by `worker.main`."""

    name: str
    settings: Settings
    jobs: Jobs
    queue: Queue
    store: Store
    models: Models
    telemetry: Telemetry
    draining: threading.Event
    stop_after_task: Callable[[], None]
    relay: Relay = field(default_factory=Relay)
    #: Errors after which this process can use its GPU no more. They hold on to GPU memory: freeing it would abort us.
    device_errors: list[Exception] = field(default_factory=list)


@dataclass
class Attempt:
    """One attempt at a task: what the work functions get."""

    runtime: Runtime
    job: Job
    lease: Lease
    scratch: Path
    leg: Leg

    @property
    def claim(self) -> Claim:
        return self.lease.claim


_runtime: list[Runtime] = []  # RQ calls tasks by name, with nothing but their arguments


def install(runtime: Runtime) -> None:
    """Give the tasks of this process their runtime."""
    _runtime[:] = [runtime]


def plan(job_id: str, task: str = PLAN) -> None:
    """Read the video's timestamps, lay out the output frames and cut them into segments."""
    _run(job_id, task, _plan)


def segment(job_id: str, task: str) -> None:
    """Decode, interpolate and encode one segment."""
    _run(job_id, task, _segment)


def assemble(job_id: str, task: str = ASSEMBLE) -> None:
    """Join the segments and the original sound into the result."""
    _run(job_id, task, _assemble)


# -- the outcome ----------------------------------------------------------------------------------


def _run(job_id: str, task: str, work: Callable[[Attempt], None]) -> None:
    [runtime] = _runtime
    if runtime.device_errors:
        runtime.queue.enqueue(job_id, task)  # for another worker, or the one that follows this
    else:
        runtime.relay.run(lambda leg: _attempt(runtime, job_id, task, work, leg))


def _attempt(runtime: Runtime, job_id: str, task: str, work: Callable[[Attempt], None], leg: Leg) -> None:
    token = new_token()
    try:
        claim = _insist(lambda: runtime.jobs.claim(job_id, task, runtime.name, token))
    except Refused as refusal:
        log.info("%s of job %s not taken: %s", task, job_id, refusal.reason)
        if refusal.reason == "exhausted":
            _fail(runtime, job_id, Problem.attempts_exhausted(task, runtime.settings.max_attempts))
        return
    lease = Lease(runtime.jobs, claim, runtime.telemetry, runtime.draining)
    runtime.telemetry.begin(job_id, task)
    try:
        with lease, runtime.store.scratch() as scratch:
            work(Attempt(runtime, runtime.jobs.get(job_id), lease, scratch, leg))
    except Void:
        log.info("%s of job %s is no longer ours; dropped", task, job_id)
    except Drained:
        _give_back(runtime, claim, failed=False)
    except Exception as error:  # the cap on attempts ends what no attempt can do
        problem, is_final = _judge(error, claim)
        log.warning("%s of job %s, attempt %d: %s", task, job_id, claim.attempt, error, exc_info=not is_final)
        if _is_lost(runtime.models.device, error):
            _stop(runtime, error)
        # Where two tasks lose the same GPU, the attempt of one of them is to blame.
        is_culprit = runtime.device_errors[:1] in ([], [error])
        if is_final or (is_culprit and claim.attempt >= runtime.settings.max_attempts):
            _fail(runtime, job_id, problem, claim)
        else:
            _give_back(runtime, claim, failed=is_culprit)
    finally:
        runtime.telemetry.end(job_id, task, lease.frames)


def _is_lost(device: torch.device, error: Exception) -> bool:
    """Whether the GPU answers this process no more: so it is after some errors, until the process ends."""
    if isinstance(error, torch.AcceleratorError):
        return True
    try:  # libraries raise errors of their own for the same cause
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def _stop(runtime: Runtime, error: Exception) -> None:
    """End this worker; what else it has in hand goes back to the queue."""
    log.critical("the GPU is in an unknown state: this worker ends")
    runtime.device_errors.append(error)
    runtime.draining.set()
    runtime.stop_after_task()


def _judge(error: Exception, claim: Claim) -> tuple[Problem, bool]:
    """What to tell the caller should this be the last attempt, and whether another one would end the same."""
    if isinstance(error, MediaError):
        return Problem(error.slug, error.detail), error.slug not in NOT_THE_VIDEO
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem("insufficient-storage", DISK_FULL), False
    if isinstance(error, FrameTooLargeError):  # another worker's GPU may be larger
        return Problem("limit-exceeded", f"The worker's GPU is too small: {error}."), False
    return Problem.attempts_exhausted(claim.task, claim.attempt), False


def _give_back(runtime: Runtime, claim: Claim, *, failed: bool) -> None:
    if _insist(lambda: runtime.jobs.release(claim, failed=failed)):
        _insist(lambda: runtime.queue.enqueue(claim.job_id, claim.task))


def _fail(runtime: Runtime, job_id: str, problem: Problem, claim: Claim | None = None) -> None:
    if _insist(lambda: runtime.jobs.finish(job_id, State.FAILED, error=problem, claim=claim)):
        log.warning("job %s failed: %s", job_id, problem.detail)


def _complete(attempt: Attempt, **results: Mapping[str, Any]) -> None:
    """Record the task as done and queue what may start now; `Void` when it was not ours any more."""
    runtime, job_id = attempt.runtime, attempt.job.id
    ready = _insist(lambda: runtime.jobs.complete(attempt.claim, **results))
    if ready is None:
        raise Void
    for task in ready:
        _insist(functools.partial(runtime.queue.enqueue, job_id, task))


def _insist(call: Callable[[], T]) -> T:
    """The call's result, waiting for a Redis that is away: neither tasks nor finished work are lost by an outage."""
    give_up = time.monotonic() + REDIS_PATIENCE
    while True:
        try:
            return call()
        except RedisError as error:
            if time.monotonic() > give_up:
                raise
            log.warning("Redis: %s; trying again", error)
            time.sleep(1.0)


# -- the work -------------------------------------------------------------------------------------


def _plan(attempt: Attempt) -> None:
    runtime, job = attempt.runtime, attempt.job
    # Whichever workers make the segments, they are of one model.
    options = job.options
    if options.model == "auto":
        options = options.model_copy(update={"model": runtime.models.default.model_name})
    with runtime.store.fetch(job.source) as source:
        settings = runtime.settings
        limits = Limits(settings.max_pixels, settings.max_frames, settings.max_duration_seconds)
        frames, check = settings.segment_frames, attempt.lease.check
        made = Plan.make(source, options, limits=limits, segment_frames=frames, check=check)
    path = attempt.scratch / "plan.json"
    path.write_text(made.to_json())
    runtime.store.put(path, _plan_key(job.id))
    attempt.lease.check()
    _complete(attempt, job={"segments_total": len(made.segments), "frames_total": made.frames})


def _segment(attempt: Attempt) -> None:
    runtime, job, claim = attempt.runtime, attempt.job, attempt.claim
    attempt.lease.wait(True)
    index = segment_index(claim.task)
    made = attempt.scratch / "segment.mp4"
    with runtime.store.fetch(_plan_key(job.id)) as path:
        plan = Plan.from_json(path.read_text())
    interpolator = runtime.models.named(plan.options.model)
    frames = plan.segments[index].stop_output - plan.segments[index].first_output
    turn = Turn(attempt, interpolator, frames)
    with runtime.store.fetch(job.source) as source:
        stats = pipeline.render_segment(
            plan,
            index,
            source,
            made,
            interpolator,
            on_frame=turn.advance,
            check=attempt.lease.check,
            turn=turn.taken(),
        )
    key = f"segments/{job.id}/{index}.{claim.token}.mp4"
    runtime.store.put(made, key)
    try:
        _complete(attempt, task={"key": key}, add=stats.sums())
    except Void:
        runtime.store.delete(key)
        raise


class Turn:
    """A segment's time on the device; shortly before its end the next task is let begin."""

    def __init__(self, attempt: Attempt, interpolator: Interpolator, frames: int) -> None:
        self._attempt = attempt
        self._interpolator = interpolator
        self._frames = frames
        self._began = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        check = self._attempt.lease.check
        with self._attempt.leg.turn(check), self._interpolator.interruptible(check):
            self._attempt.lease.wait(False)
            self._began = time.monotonic()
            yield
        self._attempt.leg.pass_on()

    def advance(self, frames: int) -> None:
        """`frames` more output frames are made."""
        self._attempt.lease.advance(frames)
        done = self._attempt.lease.frames
        if (self._frames - done) * (time.monotonic() - self._began) < HEAD_START * done:
            self._attempt.leg.pass_on()


def _assemble(attempt: Attempt) -> None:
    runtime, job, claim = attempt.runtime, attempt.job, attempt.claim
    with runtime.store.fetch(_plan_key(job.id)) as path:
        plan = Plan.from_json(path.read_text())
    keys = runtime.jobs.task_fields(job.id, map(segment_name, range(len(plan.segments))), "key")
    made = attempt.scratch / "result.mp4"
    with ExitStack() as files:
        source = files.enter_context(runtime.store.fetch(job.source))
        segments = [files.enter_context(runtime.store.fetch(key)) for key in keys if key]
        pipeline.assemble(plan, segments, source, made, check=attempt.lease.check)
    output = Output(
        key=f"results/{job.id}/{claim.token}.mp4",
        filename=f"{Path(job.filename).stem}-{plan.suffix}.mp4",
        media_type="video/mp4",
        size_bytes=made.stat().st_size,
        sha256=_sha256(made),
        frames=plan.frames,
        frame_rate=str(plan.frame_rate),
        duration_seconds=float(plan.duration),
    )
    runtime.store.put(made, output.key)
    if not _insist(lambda: runtime.jobs.finish(job.id, State.SUCCEEDED, output=output, claim=claim)):
        runtime.store.delete(output.key)
        raise Void


def _plan_key(job_id: str) -> str:
    return f"plans/{job_id}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
