"""What RQ runs, by name: `plan`, `segment` and `assemble`.

Each runs as a `worker.attempt.Attempt`. It writes under the attempt's own token, and what it wrote counts once the
attempt is recorded (`Attempt.complete`, `Attempt.succeed`). An attempt that lost its claim removes what it wrote. To
RQ a task is over when the worker can take the next: see `worker.relay`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from service.jobs.machine import ASSEMBLE, PLAN, segment_index, segment_name
from service.jobs.records import Output
from worker import pipeline
from worker.attempt import Attempt, Runtime, Void
from worker.media.facts import VideoInfo
from worker.plan import Plan

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


def _run(job_id: str, task: str, work: Callable[[Attempt], None]) -> None:
    [runtime] = _runtime
    if runtime.device_errors:
        runtime.queue.enqueue(job_id, task)  # for another worker, or the one that follows this
    else:
        runtime.relay.run(lambda leg: Attempt(runtime, job_id, task, leg).run(work))


def _plan(attempt: Attempt) -> None:
    runtime, job, settings = attempt.runtime, attempt.job, attempt.runtime.settings
    # Whichever workers make the segments, they are of one model.
    options = job.options
    if options.model == "auto":
        options = options.model_copy(update={"model": runtime.models.default.model_name})
    with runtime.store.fetch(job.source) as source:
        made = Plan.make(
            source,
            VideoInfo.from_dict(job.facts or job.input),  # older records have them there
            options,
            segment_frames=settings.segment_frames,
            max_frames=settings.max_frames,
            check=attempt.check,
            progressed=attempt.progressed,
        )
    path = attempt.scratch / "plan.json"
    path.write_text(made.to_json())
    with _published(attempt, path, f"plans/{job.id}/{attempt.claim.token}.json") as key:
        attempt.complete(
            task={"key": key}, job={"segments_total": len(made.segments), "frames_total": made.frames}
        )


def _segment(attempt: Attempt) -> None:
    runtime, job, claim = attempt.runtime, attempt.job, attempt.claim
    attempt.wait()
    index = segment_index(claim.task)
    plan = _read_plan(attempt)
    interpolator = runtime.models.named(plan.options.model)
    total = plan.segments[index].stop_output - plan.segments[index].first_output
    made = attempt.scratch / "segment"

    def on_frame(frames: int) -> None:
        attempt.advance(frames)
        attempt.leg.advance(attempt.frames, total)

    @contextmanager
    def turn() -> Iterator[None]:
        with attempt.turn(), interpolator.interruptible(attempt.step):
            yield

    with runtime.store.fetch(job.source) as source:
        stats = pipeline.render_segment(
            plan,
            index,
            source,
            made,
            interpolator,
            on_frame=on_frame,
            check=attempt.check,
            progressed=attempt.progressed,
            turn=turn(),
        )
    with _published(attempt, made, f"segments/{job.id}/{index}.{claim.token}") as key:
        attempt.complete(task={"key": key}, add=stats.sums())


def _assemble(attempt: Attempt) -> None:
    runtime, job, claim = attempt.runtime, attempt.job, attempt.claim
    plan = _read_plan(attempt)
    keys = runtime.jobs.task_fields(job.id, map(segment_name, range(len(plan.segments))), "key")
    made = attempt.scratch / "result"
    with ExitStack() as files:
        source = files.enter_context(runtime.store.fetch(job.source))
        segments = [files.enter_context(runtime.store.fetch(key)) for key in keys if key]
        pipeline.assemble(plan, segments, source, made, check=attempt.check, progressed=attempt.progressed)
    file = plan.delivery.file
    output = Output(
        key=f"results/{job.id}/{claim.token}{file.suffix}",
        filename=f"{Path(job.filename).stem}-{plan.suffix}{file.suffix}",
        media_type=file.media_type,
        size_bytes=made.stat().st_size,
        sha256=_sha256(made, attempt),
        frames=plan.frames,
        frame_rate=str(plan.frame_rate),
        duration_seconds=float(plan.duration),
    )
    with _published(attempt, made, output.key):
        attempt.succeed(output)


def _read_plan(attempt: Attempt) -> Plan:
    [key] = attempt.runtime.jobs.task_fields(attempt.job.id, [PLAN], "key")
    # A plan that was made before plans were put under their attempt's token has no key on record.
    with attempt.runtime.store.fetch(key or f"plans/{attempt.job.id}.json") as path:
        return Plan.from_json(path.read_text())


@contextmanager
def _published(attempt: Attempt, path: Path, key: str) -> Iterator[str]:
    """Put a file into the store under `key`; remove it again where the attempt turns out to have lost its claim."""
    attempt.check()
    attempt.runtime.store.put(path, key)
    attempt.progressed()
    try:
        yield key
    except Void:
        attempt.runtime.store.delete(key)
        raise


def _sha256(path: Path, attempt: Attempt) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            attempt.step()
    return digest.hexdigest()
