"""One attempt at a task: it takes the claim, reports progress, learns when to stop, and settles the outcome.

    queue ▶ Relay ▶ Attempt.run ▶ work(attempt)          the work, in `worker.work`, calls `check` and `progressed`
                        └▶ done | given back | job failed                             `Attempt._settle` decides which

A task may be attempted twice, on any worker, and still happens once: only the attempt whose claim holds is recorded.
"""

from __future__ import annotations

import errno
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from redis.exceptions import RedisError

from dain_core.runtime.memory import FrameTooLargeError
from dain_core.weights.files import WeightsError
from dain_core.weights.registry import UnknownModelError
from service import traces
from service.jobs.machine import Claim, Jobs, Refused, Standing
from service.jobs.names import new_token
from service.jobs.notes import Note
from service.jobs.problems import Problem
from service.jobs.queue import Queue
from service.jobs.records import Job, Output, State, UnreadableRecord
from service.logs import bound, get_logger
from service.settings import Settings
from service.store import Store, StoreDamaged, StoreUnavailable
from worker import share
from worker.media.errors import DISK_FULL, MediaError
from worker.models import Models
from worker.plan import RecentPlans
from worker.preview import Preview
from worker.relay import Leg, Relay
from worker.telemetry import Made, Telemetry
from worker.watchdog import Watch, Watchdog

log = get_logger("dain.worker")

T = TypeVar("T")

NOT_THE_VIDEO = (
    "encode-failed",
    "insufficient-storage",
    "machine-failed",
)  # what another attempt may be spared
_PATH = re.compile(r"(?<![\w/])(?:file:)?/(?:[^\s/:]+/)+")  # folders of this machine, in what FFmpeg says
REPORT_SECONDS = 0.5  # between two reports of progress: how soon a cancelled job stops
RETRY_SECONDS = 1.0  # between two calls of a Redis that is away
STORE_SECONDS = 5.0  # before a task is tried again whose store was away, or whose disk was full


class Void(Exception):
    """The task is no longer this attempt's: its job is over (cancelled, say), or another worker has it."""


class Drained(Exception):
    """The worker is to stop: the task goes back to the queue."""


@dataclass
class Runtime:
    """What every attempt of a worker shares. `worker.main` makes it once."""

    name: str
    settings: Settings
    jobs: Jobs
    queue: Queue
    store: Store
    models: Models
    telemetry: Telemetry
    watchdog: Watchdog
    draining: threading.Event
    stop_after_task: Callable[[], None]
    relay: Relay = field(default_factory=Relay)
    plans: RecentPlans = field(default_factory=RecentPlans)
    #: Errors after which this process can use its GPU no more. They hold on to GPU memory: freeing it would abort us.
    device_errors: list[Exception] = field(default_factory=list)

    def stop(self, error: Exception) -> None:
        """End this worker after `error` has cost it its GPU; what else it has in hand goes back to the queue."""
        log.critical("the GPU is in an unknown state: this worker ends", error=str(error))
        self.device_errors.append(error)
        self.draining.set()
        self.stop_after_task()


class Attempt:
    """One attempt at the task called `task` of a job.

    Attributes that the work may use: `runtime`, `leg`, and from the claim on `claim`, `job` and `scratch`, a private
    folder that is gone afterwards. `frames` counts the output frames that are made. The work sets `model` to the name
    of the model that it needs, before it asks for it, and in the end `megapixels` to those of the frames it made. It
    may set `preview`, of which those see pictures who look at the job.
    """

    claim: Claim
    job: Job
    scratch: Path

    def __init__(self, runtime: Runtime, job_id: str, task: str, leg: Leg) -> None:
        self.runtime = runtime
        self.leg = leg
        self.frames = 0
        self.megapixels = 0.0
        self.model = ""
        self.preview: Preview | None = None
        self._job_id = job_id
        self._task = task
        self._is_void = False
        self._is_watched = False
        self._is_waiting = False
        self._watch = Watch("")
        self._span = traces.Span()

    def run(self, work: Callable[[Attempt], None]) -> None:
        """Claim the task, do the work and settle the outcome. A task that is not to be had is left alone."""
        listed = self.runtime.telemetry.in_hand(self._job_id, self._task, self._made)
        watched = self.runtime.watchdog.watch(f"{self._task} of job {self._job_id}")
        try:
            with bound(job=self._job_id, task=self._task), listed, watched as self._watch:
                if self._take():
                    self._attempt(work)
        except RedisError as error:
            # The worker is to stop. The janitor misses the task, and delivers it again.
            log.error("outcome not recorded", job=self._job_id, task=self._task, error=str(error))

    # -- what the work calls ----------------------------------------------------------------------

    def check(self) -> None:
        """Raise `Void` or `Drained` when the work is to stop. To be called several times a second."""
        if self._is_void:
            raise Void
        if self.runtime.draining.is_set():
            raise Drained

    def progressed(self) -> None:
        """Say that the work has got on; see `Watch.progressed`."""
        self._watch.progressed()

    def step(self) -> None:
        """Say that the work has got on, and `check` whether it is to go on."""
        self.progressed()
        self.check()

    def advance(self, frames: int) -> None:
        """Say that `frames` more output frames are made."""
        self.frames += frames
        self.progressed()

    def wait(self) -> None:
        """Say that this attempt is not to blame for its worker's end until it has its `turn`."""
        self._is_waiting = True
        self._report()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the device alone."""
        with ExitStack() as turn:
            with self._watch.paused():  # the task that has the device is under a watch of its own
                turn.enter_context(self.leg.turn(self.check))
            self._is_waiting = False
            self._report()
            yield

    def complete(self, **results: Any) -> None:
        """Record the task as done, with `results` as `Jobs.complete` takes them, and queue what may start now.

        Raises:
            Void: the task is no longer this attempt's.
        """
        self._span.set(model=self.model or None, **results.get("add", {}))
        ready = self._insist(lambda: self.runtime.jobs.complete(self.claim, **results))
        if ready is None:
            raise Void
        for task in ready:
            self._insist(functools.partial(self.runtime.queue.enqueue, self._job_id, task))

    def succeed(self, output: Output, notes: Sequence[Note] = ()) -> None:
        """Record the job as done, with `notes` besides those it has.

        Raises:
            Void: the task is no longer this attempt's.
        """
        jobs, claim = self.runtime.jobs, self.claim
        done = functools.partial(
            jobs.finish, self._job_id, State.SUCCEEDED, output=output, notes=notes, claim=claim
        )
        if not self._insist(done):
            raise Void

    def redo(self, segments: Mapping[str, StoreDamaged]) -> None:
        """Have segments made again whose files the store has damaged, and this task after them.

        Raises:
            StoreDamaged: this was the last attempt.
            Void: the task is no longer this attempt's.
        """
        for damage in segments.values():
            log.error("segment made again", error=str(damage))
        if self.claim.attempt >= self.runtime.settings.max_attempts:
            raise damage
        if not self._insist(lambda: self.runtime.jobs.redo(self.claim, segments)):
            raise Void
        for task in segments:
            self._insist(functools.partial(self.runtime.queue.enqueue, self._job_id, task))

    # -- the claim --------------------------------------------------------------------------------

    def _made(self) -> Made:
        return Made(self.frames, self.model, self.megapixels)

    def _take(self) -> bool:
        runtime, token = self.runtime, new_token()
        try:
            self.claim = self._insist(
                lambda: runtime.jobs.claim(self._job_id, self._task, runtime.name, token)
            )
        except Refused as refusal:
            log.info("task not taken", reason=refusal.reason)
            if refusal.reason == "exhausted":
                self._fail(Problem.attempts_exhausted(self._task, runtime.settings.max_attempts))
            return False
        return True

    def _attempt(self, work: Callable[[Attempt], None]) -> None:
        begun = time.monotonic()
        try:
            with self._reporting(), self.runtime.store.scratch() as self.scratch:
                self.job = self.runtime.jobs.get(self._job_id)
                with self._traced():
                    if self.claim.begins_job:
                        log.info("job begun", **self.job.log_fields, worker=self.runtime.name)
                    work(self)
        except Exception as error:  # the cap on attempts ends what no attempt can do
            self._settle(error)
        else:
            self._log_end(time.monotonic() - begun)

    @contextmanager
    def _traced(self) -> Iterator[None]:
        """A span of this attempt, in the trace of the request that the job came by."""
        name = self._task.partition("-")[0]  # one for all segments
        origin, claim = self.job.origin, self.claim
        with traces.span(
            name, parent=origin.traceparent, kind="CONSUMER", expected=(Void, Drained)
        ) as self._span:
            self._span.set(job=claim.job_id, task=claim.task, attempt=claim.attempt, worker=self.runtime.name)
            self._span.set(request_id=origin.request_id)
            yield

    def _log_end(self, seconds: float) -> None:
        """Log a task that is done."""
        log.info(
            "task done",
            request_id=self.job.origin.request_id,
            worker=self.runtime.name,
            model=self.model or None,
            frames=self.frames or None,
            seconds=round(seconds, 3),
            fps=round(self.frames / seconds, 2) if self.frames else None,
        )

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report progress twice a second. Redis being away does not end the attempt."""
        over = threading.Event()

        def report_often() -> None:
            while not self._is_void and not over.wait(REPORT_SECONDS):
                self._report()

        reporter = threading.Thread(target=report_often, name="report", daemon=True)
        reporter.start()
        try:
            yield
        finally:
            over.set()
            reporter.join()

    def _report(self) -> None:
        try:
            answer = self.runtime.jobs.report(
                self.claim, self.frames, waiting=self._is_waiting, picture=self._picture()
            )
            self._is_void, self._is_watched = not answer, answer is Standing.WATCHED
        except RedisError as error:
            log.warning("progress not reported", job=self._job_id, task=self._task, error=str(error))

    def _picture(self) -> bytes | None:
        """A picture of the newest frame, if somebody wants to see one."""
        try:
            return self.preview.take() if self.preview and self._is_watched else None
        except Exception:  # the work does not depend on it
            log.warning("no pictures", job=self._job_id, exc_info=True)
            self.preview = None
            return None

    # -- the outcome ------------------------------------------------------------------------------

    def _settle(self, error: Exception) -> None:
        """Record an attempt that ended without a result."""
        if isinstance(error, Void):
            log.info("task dropped", reason="the job is over, or another worker has the task")
        elif isinstance(error, Drained | RedisError):
            reason = "this worker stops" if isinstance(error, Drained) else str(error)
            log.info("task given back", reason=reason)
            self._give_back(failed=False)
        elif isinstance(error, UnknownModelError):
            self._leave_to_others()
        elif isinstance(error, StoreUnavailable):
            log.warning("task waits for the store", error=str(error))
            self.runtime.draining.wait(STORE_SECONDS)  # the next attempt would end as soon
            self._give_back(failed=False)
        else:
            self._settle_failure(error)

    def _settle_failure(self, error: Exception) -> None:
        runtime, number = self.runtime, self.claim.attempt
        problem, is_final = _judge(error, self.claim, self.model)
        if isinstance(error, FrameTooLargeError):  # another worker's machine may be larger
            advice = share.advice(error, runtime.settings, runtime.models.device)
            problem = Problem("limit-exceeded", f"The worker has too little memory: {error}.{advice}")
        log.warning("attempt failed", attempt=number, error=str(error), exc_info=not is_final)
        if _is_lost(runtime.models.device, error):
            runtime.stop(error)
        # Where two tasks lose the same GPU, the attempt of one of them is to blame.
        is_culprit = runtime.device_errors[:1] in ([], [error])
        if is_final or (is_culprit and number >= runtime.settings.max_attempts):
            self._fail(problem, self.claim)
        else:
            if problem.slug == "insufficient-storage":
                runtime.draining.wait(
                    STORE_SECONDS
                )  # others may make room; the next attempt would end as soon
            self._give_back(failed=is_culprit)

    def _give_back(self, *, failed: bool) -> None:
        jobs, queue = self.runtime.jobs, self.runtime.queue
        if self._insist(lambda: jobs.release(self.claim, failed=failed)):
            self._insist(lambda: queue.enqueue(self._job_id, self._task))

    def _leave_to_others(self) -> None:
        """Give back a task whose model this worker lacks. The janitor delivers it again once a worker may serve it."""
        model = self.model
        log.info("task given back", reason=f"this worker does not serve {model}")
        self._insist(lambda: self.runtime.jobs.release(self.claim, failed=False, needs_model=model))

    def _fail(self, problem: Problem, claim: Claim | None = None) -> None:
        jobs = self.runtime.jobs
        self._insist(lambda: jobs.finish(self._job_id, State.FAILED, error=problem, claim=claim))

    def _insist(self, call: Callable[[], T]) -> T:
        """The result of `call`, however long Redis is away: an outage loses neither tasks nor finished work.

        A worker that is to stop does not wait: then the call's RedisError is raised.
        """
        self.runtime.watchdog.hold()
        with self._watch.paused():  # calls of Redis have time limits of their own
            while True:
                try:
                    return call()
                except RedisError as error:
                    if self.runtime.draining.is_set():
                        raise
                    log.warning("Redis does not answer; trying again", error=str(error))
                    time.sleep(RETRY_SECONDS)


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


def _judge(error: Exception, claim: Claim, model: str) -> tuple[Problem, bool]:
    """The problem to tell the caller of should this be the last attempt, and whether any other would end the same."""
    if isinstance(error, WeightsError):  # another worker's copy may be good
        return Problem("model-failed", _model_failed(model, f"its weights cannot be used: {error}")), False
    if isinstance(error, FloatingPointError):  # the pixels of a video are finite
        return Problem(
            "model-failed", _model_failed(model, "its weights make frames that are not finite")
        ), False
    if isinstance(error, MediaError):
        return Problem(error.slug, _PATH.sub("", error.detail)), error.slug not in NOT_THE_VIDEO
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem("insufficient-storage", DISK_FULL), False
    if isinstance(error, StoreDamaged):
        return Problem("stored-file-damaged", f"{error} Then submit the video again."), False
    if isinstance(error, UnreadableRecord):  # a worker of another version may be able to read it
        return error.problem, False
    return Problem.attempts_exhausted(claim.task, claim.attempt), False


def _model_failed(model: str, reason: str) -> str:
    advice = "Correct the model's file, or choose another model."
    return _PATH.sub("", f"The model {model} failed, and not the video: {reason}. {advice}")
