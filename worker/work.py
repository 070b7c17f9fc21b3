"""What RQ runs: `run`, by the names in `worker.tasks`.

A task is a `_plan`, a `_segment` or an `_assemble`. Each runs as a `worker.attempt.Attempt`. It writes under the
attempt's own token, and what it wrote counts once the attempt is recorded (`Attempt.complete`, `Attempt.succeed`). An
attempt that lost its claim removes what it wrote. To RQ a task is over when the worker can take the next: see
`worker.relay`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

from redis.exceptions import RedisError

from service.jobs.names import ASSEMBLE, PLAN, segment_index, segment_name
from service.jobs.records import Output, frames_key
from service.jobs.work import megapixels
from service.store import Stored, StoreDamaged, StoreMissing
from service.store.blocks import put_blocks
from service.store.hashes import hash_file
from worker import mask, pipeline
from worker.attempt import Attempt, Runtime, Void
from worker.kinds import kinds
from worker.media.errors import MediaError
from worker.media.facts import VideoInfo
from worker.plan import JobPlan
from worker.preview import Preview

log = logging.getLogger("dain.worker")

_runtime: list[Runtime] = []  # RQ calls tasks by name, with nothing but their arguments


def install(runtime: Runtime) -> None:
    """Give the tasks of this process their runtime."""
    _runtime[:] = [runtime]


def run(job_id: str, task: str) -> None:
    """Run the task whose turn it is. `task` of job `job_id`, which the queue delivered, is run where none is in line.

    The queue says that there is work, and the line what comes first. An earlier release knows of no line: what it
    queued is in the queue alone.
    """
    [runtime] = _runtime
    if runtime.device_errors:
        runtime.queue.enqueue(job_id, task)  # for another worker, or the one that follows this
        return
    try:
        job_id, task = runtime.jobs.next_task() or (job_id, task)
    except RedisError as error:
        # The attempt waits for Redis. What may have left the line unseen is offered again by the janitor.
        log.warning("Redis does not say what comes first: %s", error)
    work = {PLAN: _plan, ASSEMBLE: _assemble}.get(task, _segment)
    runtime.relay.run(lambda leg: Attempt(runtime, job_id, task, leg).run(work))


def _plan(attempt: Attempt) -> None:
    """Read the video's timestamps, lay out the output frames and cut them into segments."""
    job, settings = attempt.job, attempt.runtime.settings
    # Whichever workers make the segments, they are of one model.
    is_open = job.options.model == "auto"
    model = attempt.runtime.models.default.model_name if is_open else job.options.model
    made = _make_plan(attempt, model, settings.segment_frames)
    path = attempt.scratch / "plan.json"
    path.write_text(made.to_json(attempt.step))
    with _published(attempt, path, f"plans/{job.id}/{attempt.claim.token}.json") as stored:
        attempt.complete(
            task=stored.as_fields() | {"model": model, "segment_frames": settings.segment_frames},
            job={"segments_total": len(made.segments), "frames_total": made.frames},
            notes=made.notes,
        )


def _make_plan(attempt: Attempt, model: str, segment_frames: int) -> JobPlan:
    job = attempt.job
    info = VideoInfo.from_dict(job.facts or job.input)  # older records have them there
    with _mask(attempt) as mask_path:
        if mask_path is not None:
            mask.read(mask_path, info)  # one that cannot be read is found before a frame is made
    with _checked_source(attempt) as source:
        return JobPlan.make(
            source,
            info,
            job.options.model_copy(update={"model": model}),
            segment_frames=segment_frames,
            max_frames=attempt.runtime.settings.max_frames,
            scratch=attempt.scratch,
            check=attempt.check,
            progressed=attempt.progressed,
        )


def _segment(attempt: Attempt) -> None:
    """Decode, interpolate and encode one segment."""
    runtime, job, claim = attempt.runtime, attempt.job, attempt.claim
    attempt.wait()
    index = segment_index(claim.task)
    plan = _plan_of(attempt)
    attempt.model = plan.options.model
    interpolator = runtime.models.named(attempt.model)
    total = plan.segments[index].stop_output - plan.segments[index].first_output
    made = attempt.scratch / "segment"
    attempt.preview = Preview(plan)

    def on_frame(frames: int) -> None:
        attempt.advance(frames)
        attempt.leg.advance(attempt.frames, total)

    @contextmanager
    def turn() -> Iterator[None]:
        with attempt.turn(), interpolator.interruptible(attempt.step):
            yield

    with _source(attempt) as source, _mask(attempt) as mask_path:
        stats = pipeline.render_segment(
            plan,
            index,
            source,
            made,
            interpolator,
            mask_path=mask_path,
            on_frame=on_frame,
            show=attempt.preview.show,
            check=attempt.check,
            progressed=attempt.progressed,
            turn=turn(),
        )
    attempt.megapixels = megapixels(stats.new_frames, plan.info.width, plan.info.height)
    with _published(attempt, made, f"segments/{job.id}/{index}.{claim.token}") as stored:
        told = {
            "cuts": json.dumps([str(time) for time in stats.cuts]),
            "is_new": "".join("01"[new] for new in stats.is_new),
        }
        attempt.complete(task=stored.as_fields() | told, add=stats.sums(), notes=stats.notes)


def _assemble(attempt: Attempt) -> None:
    """Join the segments and the original sound into the result."""
    job = attempt.job
    plan = _plan_of(attempt)
    made = attempt.scratch / "result"
    with ExitStack() as files:
        source = files.enter_context(_checked_source(attempt))
        segments, damaged = _fetch_segments(attempt, len(plan.segments), files)
        if damaged:
            attempt.redo(damaged)
            return
        pipeline.assemble(plan, segments, source, made, check=attempt.check, progressed=attempt.progressed)
    kind = plan.delivery.kind
    key = f"results/{job.id}/{attempt.claim.token}{kind.suffixes[0]}"
    blocks_sha256 = put_blocks(attempt.runtime.store, made, key, attempt.step)
    frames_sha256 = _put_frames(attempt, plan, key)
    with _published(attempt, made, key) as stored:
        attempt.succeed(
            Output(
                **stored.as_fields(),
                blocks_sha256=blocks_sha256,
                frames_sha256=frames_sha256,
                filename=f"{Path(job.filename).stem}-{plan.options.suffix}{kind.suffixes[0]}",
                media_type=kind.media_type,
                frames=plan.frames,
                frame_rate=str(plan.frame_rate),
                duration_seconds=float(plan.duration),
            ),
            notes=plan.cut_notes(_cuts(attempt, len(plan.segments))),
        )


def _put_frames(attempt: Attempt, plan: JobPlan, key: str) -> str | None:
    """Put beside the result which of its frames are new; returns the hash of that. None where a segment of an earlier
    release does not say it."""
    told = _told(attempt, len(plan.segments), "is_new")
    if None in told:
        return None
    path = attempt.scratch / "frames"
    path.write_text(json.dumps(kinds(plan, "".join(filter(None, told)), attempt.step)))
    return attempt.runtime.store.put(path, frames_key(key), step=attempt.step).sha256


def _cuts(attempt: Attempt, segments: int) -> list[Fraction]:
    """When scenes begin in the source, as far as segments say it: earlier releases did not."""
    return [Fraction(time) for cuts in _told(attempt, segments, "cuts") for time in json.loads(cuts or "[]")]


def _told(attempt: Attempt, segments: int, field: str) -> list[str | None]:
    """What each segment says in a field of its record."""
    names = [segment_name(index) for index in range(segments)]
    return attempt.runtime.jobs.task_fields(attempt.job.id, names, field)


# -- files of the store: what was put there under its hash, or an error that blames the store ------------------------


def _fetch_segments(
    attempt: Attempt, number: int, files: ExitStack
) -> tuple[list[Path], dict[str, StoreDamaged]]:
    """The segments' files, open until `files` closes, and what is wrong with those that must be made again."""
    names = [segment_name(index) for index in range(number)]
    paths, damaged = [], {}
    for name, stored in zip(names, attempt.runtime.jobs.task_files(attempt.job.id, names), strict=True):
        try:
            if stored is None:
                raise StoreMissing(f"segments/{attempt.job.id}/{name}")
            paths.append(files.enter_context(_fetch(attempt, stored)))
        except StoreDamaged as damage:
            damaged[name] = damage
    return paths, damaged


def _plan_of(attempt: Attempt) -> JobPlan:
    """The job's plan."""
    [recorded] = attempt.runtime.jobs.task_files(attempt.job.id, [PLAN])
    # A plan that was made before plans were put under their attempt's token has no key on record.
    stored = recorded or Stored(f"plans/{attempt.job.id}.json")
    return attempt.runtime.plans.get(stored.key, lambda: _read_plan(attempt, stored))


def _read_plan(attempt: Attempt, stored: Stored) -> JobPlan:
    """The plan that is stored there. One that the store has damaged is made again: it is known by its hash."""
    job_id, jobs = attempt.job.id, attempt.runtime.jobs
    try:
        with _fetch(attempt, stored) as path:
            return JobPlan.from_json(path.read_text(), attempt.step)
    except StoreDamaged as damage:
        [model], [frames] = (jobs.task_fields(job_id, [PLAN], name) for name in ("model", "segment_frames"))
        if model is None or frames is None:
            raise
        log.error("%s The plan is made again.", damage)
        made = _make_plan(attempt, model, int(frames))
        path = attempt.scratch / "plan.json"
        path.write_text(made.to_json(attempt.step))
        if hash_file(path) != stored.sha256:  # another release made it
            raise
        attempt.runtime.store.put(path, stored.key)
        return made


def _fetch(attempt: Attempt, stored: Stored) -> AbstractContextManager[Path]:
    fetch = attempt.runtime.store.fetch
    return fetch(stored.key, size_bytes=stored.size_bytes, sha256=stored.sha256, step=attempt.step)


def _checked_source(attempt: Attempt) -> AbstractContextManager[Path]:
    """The upload, whose every byte is what was sent."""
    return _fetch(attempt, Stored(attempt.job.source, sha256=attempt.job.source_sha256))


@contextmanager
def _source(attempt: Attempt) -> Iterator[Path]:
    """The upload. Its bytes are checked only where they turn out to be no good, since a segment needs few of them."""
    try:
        with attempt.runtime.store.fetch(attempt.job.source) as path:
            yield path
    except MediaError:
        with _checked_source(attempt):  # a damaged file is the store's fault, not the video's
            raise


@contextmanager
def _mask(attempt: Attempt) -> Iterator[Path | None]:
    """The picture of what stands still, whose every byte is what was sent; None where there is none."""
    sha256 = attempt.job.options.mask
    if sha256 is None:
        yield None
        return
    with _fetch(attempt, Stored(f"masks/{attempt.job.id}", sha256=sha256)) as path:
        yield path


@contextmanager
def _published(attempt: Attempt, path: Path, key: str) -> Iterator[Stored]:
    """Put a file into the store under `key`; remove it again where the attempt turns out to have lost its claim."""
    stored = attempt.runtime.store.put(path, key, step=attempt.step)
    try:
        attempt.check()
        yield stored
    except Void:
        attempt.runtime.store.delete(key)
        raise
