"""The state machine: what is handed out, to whom, and which outcome stands."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from service.api.options import parse_options
from service.jobs import machine, names
from service.jobs.keys import Quota
from service.jobs.machine import Claim, Entry, Jobs, Refused
from service.jobs.names import ALL, ASSEMBLE, OWNERS, PLAN, created_at, job_key, new_job_id, owner_key
from service.jobs.notes import Note
from service.jobs.options import Handling, Options
from service.jobs.problems import Problem
from service.jobs.records import DEFAULT_OWNER, Job, Output, State
from service.jobs.workers import worker_key
from service.settings import Settings
from service.store import Stored


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    for worker in ("ann", "bob"):
        redis.set(worker_key(worker), "alive")
    return Jobs.from_settings(redis, settings.model_copy(update={"segments_in_flight": 2, "max_attempts": 3}))


@pytest.fixture
def job(jobs: Jobs) -> Job:
    return accept(jobs)


def accept(jobs: Jobs, owner: str = DEFAULT_OWNER, **fields: Any) -> Job:
    job_id = new_job_id()
    return jobs.create(
        job_id,
        source=f"uploads/{job_id}",
        filename="clip.mp4",
        options=parse_options({}),
        input={"frames": 12},
        owner=owner,
        **fields,
    )


def planned(jobs: Jobs, job: Job, segments: int) -> list[str]:
    claim = jobs.claim(job.id, PLAN, "ann")
    ready = jobs.complete(claim, job={"segments_total": segments, "frames_total": 10 * segments})
    assert ready is not None
    return ready


def output(job: Job) -> Output:
    return Output(
        key=f"results/{job.id}/0.mp4",
        filename="clip-2x.mp4",
        media_type="video/mp4",
        size_bytes=1,
        sha256="00",
        frames=24,
        frame_rate="48",
        duration_seconds=0.5,
    )


def refusal(jobs: Jobs, job: Job, task: str, worker: str = "bob") -> str:
    with pytest.raises(Refused) as caught:
        jobs.claim(job.id, task, worker)
    return caught.value.reason


class Forgetful(Redis):
    """A Redis of which one script's answer is lost with its connection, after it has done what it was told."""

    loses_next = False

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)
        if self.loses_next and command_name == "EVALSHA":
            self.loses_next = False
            raise ConnectionError("the connection broke")
        return answer


@pytest.fixture
def forgetful(redis: Redis, settings: Settings) -> tuple[Forgetful, Jobs]:
    redis.set(worker_key("ann"), "alive")
    client = Forgetful.from_url(
        settings.require_redis_url, retry=Retry(NoBackoff(), 1), retry_on_error=[ConnectionError]
    )
    return client, Jobs.from_settings(client, settings)


def test_a_lost_answer_changes_nothing(forgetful: tuple[Forgetful, Jobs]) -> None:
    """To whatever call: the claim holds, what was completed or finished is so, and counted once."""
    client, jobs = forgetful
    job = accept(jobs)
    client.loses_next = True
    claim = jobs.claim(job.id, PLAN, "ann")
    assert claim.attempt == 1 and jobs.report(claim, 0)
    client.loses_next = True
    assert jobs.complete(claim, job={"segments_total": 1, "frames_total": 10}) == ["segment-0"]
    claim = jobs.claim(job.id, "segment-0", "ann")
    client.loses_next = True
    assert jobs.complete(claim, add={"frames": 10}) == [ASSEMBLE]
    claim = jobs.claim(job.id, ASSEMBLE, "ann")
    client.loses_next = True
    assert jobs.finish(job.id, State.SUCCEEDED, output=output(job), claim=claim)
    done, counters = jobs.get(job.id), jobs.counters()
    assert done.status == State.SUCCEEDED and done.progress.frames_done == 10
    assert done.metrics.segments_done == 1 and done.metrics.attempts_failed == 0
    assert counters["jobs_succeeded"] == 1 and counters["frames"] == 10
    assert not client.loses_next


def test_a_new_job_is_queued_with_its_place_in_the_line(jobs: Jobs) -> None:
    first, second = accept(jobs), accept(jobs)
    assert [first.status, second.status] == [State.QUEUED, State.QUEUED]
    assert [first.progress.queue_position, second.progress.queue_position] == [0, 1]
    assert first.filename == "clip.mp4" and first.input == {"frames": 12} and first.options.factor == 2


def test_the_backlog_is_read_once_a_second_however_many_jobs_come_and_are_polled(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, backlog = [], jobs.backlog
    monkeypatch.setattr(jobs, "backlog", lambda: read.append(1) or backlog())
    monkeypatch.setattr(machine, "BACKLOG_SECONDS", 3600.0)
    made = [accept(jobs).id for _ in range(4)]
    assert [jobs.get(job_id).progress.queue_position for job_id in made] == [0, 1, 2, 3]
    assert len(read) == 1
    monkeypatch.setattr(machine, "BACKLOG_SECONDS", 0.0)
    jobs.cancel(made[0])
    assert [jobs.get(job_id).progress.queue_position for job_id in made] == [None, 0, 1, 2]


def test_ids_sort_by_time_of_creation() -> None:
    before = time.time()
    ids = [new_job_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert all(before - 0.001 <= created_at(job_id) <= time.time() for job_id in ids)


def test_ids_keep_their_order_when_the_clock_is_set_back(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a new job is the first of the list, and the last in the line."""
    now = time.time_ns()
    clock = iter([now, now - 3600 * 10**9, now - 3600 * 10**9, now, now + 10**9])
    monkeypatch.setattr(names.time, "time_ns", lambda: next(clock))
    ids = [jobs.new_id() for _ in range(5)]
    assert ids == sorted(ids) and len(set(ids)) == 5
    assert all(names.is_job_id(job_id) for job_id in ids)
    assert created_at(ids[2]) == pytest.approx(now / 1e9, abs=0.01)


def test_an_id_is_above_the_last_of_its_millisecond(jobs: Jobs, redis: Redis) -> None:
    redis.set(names.LAST_ID, "ffffffff0000ffff" + "f" * 12)
    assert jobs.new_id()[:16] == "ffffffff00010000"


def test_notes_are_kept_in_order_and_once(jobs: Jobs) -> None:
    notes = [
        Note(text="No é."),
        Note.of("audio-dropped", 'Subtitles: "x"/y.', stream=1),
        Note.of("audio-dropped", 'Subtitles: "x"/y.', stream=2),
    ]
    job_id = new_job_id()
    jobs.create(
        job_id,
        source="uploads/x",
        filename="a.mp4",
        options=Options(),
        input={},
        facts={"frames": 3},
        notes=notes[:1],
    )
    claim = jobs.claim(job_id, PLAN, "ann")
    jobs.complete(claim, job={"segments_total": 1, "frames_total": 1}, notes=[*notes[1:], notes[0]])
    jobs.finish(job_id, State.CANCELLED, notes=[Note(text="Last.")])
    job = jobs.get(job_id)
    assert job.notes == [*notes, Note(text="Last.")] and job.facts == {"frames": 3}


def test_notes_that_are_plain_sentences_are_read_and_kept(jobs: Jobs, redis: Redis) -> None:
    job_id = new_job_id()
    jobs.create(job_id, source="uploads/x", filename="a.mp4", options=Options(), input={}, facts={})
    redis.hset(names.job_key(job_id), "notes", '["Plain."]')
    jobs.finish(job_id, State.CANCELLED, notes=[Note.of("frames-held", "Held.")])
    assert jobs.get(job_id).notes == [Note(code="note", text="Plain."), Note.of("frames-held", "Held.")]


def test_what_a_task_published_is_on_record(jobs: Jobs, job: Job) -> None:
    planned(jobs, job, segments=2)
    stored = Stored(f"segments/{job.id}/0.a.mp4", 12, "ab")
    jobs.complete(jobs.claim(job.id, "segment-0", "ann"), task=stored.as_fields(), add={"frames": 10})
    assert jobs.task_files(job.id, ["segment-0", "segment-1", PLAN]) == [stored, None, None]


def test_a_damaged_segment_is_made_again(jobs: Jobs, job: Job) -> None:
    planned(jobs, job, segments=2)
    for task in ("segment-0", "segment-1"):
        jobs.complete(jobs.claim(job.id, task, "ann"), task={"key": task}, add={"frames": 10})
    claim = jobs.claim(job.id, ASSEMBLE, "ann")
    assert jobs.redo(claim, ["segment-1"])
    assert not jobs.redo(claim, ["segment-1"]) and not jobs.finish(job.id, State.SUCCEEDED, claim=claim)
    assert refusal(jobs, job, ASSEMBLE) == "gone" and refusal(jobs, job, "segment-0") == "done"
    assert [(task, fields["state"]) for _, task, fields in jobs.live_tasks()] == [("segment-1", "queued")]
    assert jobs.get(job.id).progress.frames_done == 10
    again = jobs.claim(job.id, "segment-1", "bob")
    assert jobs.complete(again, task={"key": "again"}, add={"frames": 10}) == [ASSEMBLE]
    assert jobs.task_fields(job.id, ["segment-0", "segment-1"], "key") == ["segment-0", "again"]
    last = jobs.claim(job.id, ASSEMBLE, "ann")
    assert last.attempt == 2  # a store that damages every file ends the job
    assert jobs.finish(job.id, State.SUCCEEDED, output=output(job), claim=last)
    assert jobs.get(job.id).progress.frames_done == 20


def test_an_unknown_job_is_a_404(jobs: Jobs) -> None:
    with pytest.raises(Problem) as caught:
        jobs.get(new_job_id())
    assert (caught.value.slug, caught.value.status) == ("job-not-found", 404)


def test_the_whole_way_of_a_job(jobs: Jobs, job: Job) -> None:
    assert planned(jobs, job, segments=3) == ["segment-0", "segment-1"]  # two in flight
    first, second = jobs.claim(job.id, "segment-0", "ann"), jobs.claim(job.id, "segment-1", "bob")
    assert jobs.complete(first, add={"frames": 10, "seconds_decode": 0.5}) == ["segment-2"]
    assert jobs.complete(second, add={"frames": 10, "seconds_decode": 0.25}) == []
    assert jobs.complete(jobs.claim(job.id, "segment-2", "bob"), add={"frames": 10}) == [ASSEMBLE]
    last = jobs.claim(job.id, ASSEMBLE, "ann")
    assert jobs.finish(job.id, State.SUCCEEDED, output=output(job), claim=last)

    done = jobs.get(job.id)
    assert done.status is State.SUCCEEDED and done.output == output(job)
    assert done.progress.fraction == 1.0 and done.progress.frames_done == 30
    assert done.metrics.stage_seconds == {"decode": 0.75} and done.metrics.segments_done == 3
    assert jobs.counts() == {"queued": 0, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 0}
    assert jobs.counters()["frames"] == 30 and jobs.counters()["jobs_succeeded"] == 1
    assert jobs.live_tasks() == []


def test_progress_counts_what_running_attempts_have_made(jobs: Jobs, job: Job) -> None:
    planned(jobs, job, segments=2)
    claim = jobs.claim(job.id, "segment-0", "ann")
    assert jobs.report(claim, 7)
    progress = jobs.get(job.id).progress
    assert (progress.frames_done, progress.frames_total, progress.fraction) == (7, 20, 0.35)
    assert progress.fps and progress.eta_seconds
    assert jobs.release(claim, failed=True)
    assert jobs.get(job.id).progress.frames_done == 0


def test_a_clock_that_is_set_back_leaves_the_rate_as_it_is(jobs: Jobs, job: Job, redis: Redis) -> None:
    planned(jobs, job, 2)
    claim = jobs.claim(job.id, "segment-0", "ann")
    jobs.report(claim, 10)
    ahead = {name: time.time() + 3600 + seconds for name, seconds in (("started_at", 0), ("reported_at", 10))}
    redis.hset(
        job_key(job.id), mapping=ahead
    )  # ten seconds of work, before the clock was set back by an hour
    jobs.report(claim, 40)
    fps = jobs.get(job.id).progress.fps
    assert fps is not None and 2 < fps <= 4
    assert not jobs.report(Claim(job.id, "segment-0", "another's", 1), 50)


def test_a_task_goes_to_one_live_worker(jobs: Jobs, job: Job) -> None:
    jobs.claim(job.id, PLAN, "ann")
    assert refusal(jobs, job, PLAN) == "busy"


def test_a_done_task_is_not_done_again(jobs: Jobs, job: Job) -> None:
    planned(jobs, job, segments=1)
    assert refusal(jobs, job, PLAN) == "done"


def test_a_task_that_was_never_started_is_not_to_be_had(jobs: Jobs, job: Job) -> None:
    assert refusal(jobs, job, "segment-7") == "gone"


def test_a_dead_workers_task_goes_to_another_and_the_dead_one_is_not_heard(
    jobs: Jobs, job: Job, redis: Redis
) -> None:
    old = jobs.claim(job.id, PLAN, "ann")
    redis.delete(worker_key("ann"))
    new = jobs.claim(job.id, PLAN, "bob")
    assert new.attempt == 2
    assert not jobs.report(old, 5)
    assert jobs.complete(old, job={"segments_total": 1, "frames_total": 1}) is None
    assert not jobs.release(old, failed=True)
    assert not jobs.finish(job.id, State.FAILED, error=Problem("damaged-video", "cut"), claim=old)
    assert jobs.complete(new, job={"segments_total": 1, "frames_total": 1}) == ["segment-0"]


def test_attempts_are_capped(jobs: Jobs, job: Job) -> None:
    for attempt in (1, 2, 3):
        claim = jobs.claim(job.id, PLAN, "ann")
        assert claim.attempt == attempt
        assert jobs.release(claim, failed=True)
    assert refusal(jobs, job, PLAN) == "exhausted"
    assert jobs.get(job.id).metrics.attempts_failed == 3


def test_draining_costs_no_attempt(jobs: Jobs, job: Job) -> None:
    for _ in range(5):
        claim = jobs.claim(job.id, PLAN, "ann")
        assert claim.attempt == 1
        assert jobs.release(claim, failed=False)
    assert jobs.get(job.id).metrics.attempts_failed == 0


def test_a_lost_task_is_queued_again_until_its_attempts_are_used_up(jobs: Jobs, job: Job) -> None:
    for expected in ("requeued", "requeued", "exhausted"):
        claim = jobs.claim(job.id, PLAN, "ann")
        assert jobs.requeue_lost(job.id, PLAN, claim.token) == expected
    assert jobs.requeue_lost(job.id, PLAN, "an old token") == "void"


def test_a_task_that_waited_is_not_charged_for_the_end_of_its_worker(jobs: Jobs, job: Job) -> None:
    """Three times, as often as a harmful neighbour may be tried."""
    for _ in range(3):
        claim = jobs.claim(job.id, PLAN, "ann")
        assert jobs.report(claim, 0, waiting=True)
        assert jobs.requeue_lost(job.id, PLAN, claim.token) == "requeued"
    claim = jobs.claim(job.id, PLAN, "ann")
    assert claim.attempt == 1 and jobs.get(job.id).metrics.attempts_failed == 0
    assert jobs.report(claim, 0, waiting=True) and jobs.report(claim, 0)  # its turn has come
    assert jobs.requeue_lost(job.id, PLAN, claim.token) == "requeued"
    assert jobs.get(job.id).metrics.attempts_failed == 1


def test_cancelling_ends_what_runs(jobs: Jobs, job: Job) -> None:
    planned(jobs, job, segments=2)
    claim = jobs.claim(job.id, "segment-0", "ann")
    assert jobs.cancel(job.id).status is State.CANCELLED
    assert not jobs.report(claim, 1)
    assert jobs.complete(claim) is None
    assert refusal(jobs, job, "segment-1") == "gone"
    assert jobs.unclean() == [job.id]


@pytest.mark.parametrize("first", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_the_first_outcome_stands(jobs: Jobs, job: Job, first: State) -> None:
    problem = Problem("damaged-video", "It is cut off.")
    results: dict[State, dict[str, Any]] = {
        State.SUCCEEDED: {"output": output(job)},
        State.FAILED: {"error": problem},
        State.CANCELLED: {},
    }
    assert jobs.finish(job.id, first, **results[first])
    for later, fields in results.items():
        assert not jobs.finish(job.id, later, **fields)
    assert jobs.get(job.id).status is first
    assert sum(jobs.counts().values()) == 1


def test_racing_outcomes_leave_one(jobs: Jobs, job: Job) -> None:
    won: list[State] = []
    start = threading.Barrier(8)

    def finish(state: State) -> None:
        start.wait()
        if jobs.finish(job.id, state):
            won.append(state)

    threads = [threading.Thread(target=finish, args=(s,)) for s in (State.CANCELLED, State.FAILED) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [jobs.get(job.id).status]


def test_racing_claims_give_one_token(jobs: Jobs, job: Job) -> None:
    got: list[Claim] = []
    start = threading.Barrier(8)

    def claim() -> None:
        start.wait()
        try:
            got.append(jobs.claim(job.id, PLAN, "ann"))
        except Refused as refused:
            assert refused.reason == "busy"

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_failed_job_carries_the_problem_document(jobs: Jobs, job: Job) -> None:
    jobs.finish(job.id, State.FAILED, error=Problem("damaged-video", "It is cut off."))
    error = jobs.get(job.id).error
    assert error is not None
    assert error["type"] == "urn:dain:problem:damaged-video" and error["instance"] == f"/jobs/{job.id}"


def test_pages_are_newest_first_and_end(jobs: Jobs) -> None:
    ids = [accept(jobs).id for _ in range(5)]
    jobs.cancel(ids[2])
    page, cursor = jobs.page(DEFAULT_OWNER, limit=3)
    rest, end = jobs.page(DEFAULT_OWNER, limit=3, cursor=cursor)
    assert [job.id for job in page + rest] == sorted(ids, reverse=True)
    assert end is None
    assert [job.id for job in jobs.page(DEFAULT_OWNER, status=State.CANCELLED)[0]] == [ids[2]]


def test_a_quota_counts_what_its_owner_has(jobs: Jobs, redis: Redis) -> None:
    quota = Quota(jobs=3, bytes=100)
    accept(jobs, "bob")
    made = [accept(jobs, "ann", quota=quota, size_bytes=30) for _ in range(3)]
    jobs.claim(made[0].id, PLAN, "ann")  # a running job counts as a queued one does
    with pytest.raises(Problem) as refused:
        accept(jobs, "ann", quota=quota)
    assert refused.value.slug == "quota-exceeded" and int(refused.value.headers["Retry-After"]) > 0
    assert refused.value.extra == {"quota": "jobs", "limit": 3, "used": 3}
    accept(jobs, "bob", quota=quota, size_bytes=100)
    accept(jobs, "ann", size_bytes=9)  # another key of the owner may have another quota, or none
    for job in made[:2]:
        jobs.cancel(job.id)
    with pytest.raises(Problem) as refused:
        accept(jobs, "ann", quota=quota, size_bytes=2)
    assert refused.value.extra == {"quota": "bytes", "limit": 100, "used": 99}
    accept(jobs, "ann", quota=quota, size_bytes=1)
    jobs.cancel(made[2].id)
    with pytest.raises(Problem, match="100 bytes today"):  # what is cancelled was uploaded all the same
        jobs.check_quota("ann", quota, 1)
    midnight = int(redis.ttl("dain:owner:ann:bytes")) + time.time()
    assert midnight % 86400 < 5 or midnight % 86400 > 86395


def test_jobs_that_come_at_once_go_beyond_no_quota(jobs: Jobs) -> None:
    def submit() -> bool:
        try:
            accept(jobs, "ann", quota=Quota(jobs=5))
        except Problem:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(lambda _: submit(), range(20))) == 5
    assert jobs.counts()["queued"] == 5


def test_a_refused_job_leaves_nothing(jobs: Jobs, redis: Redis) -> None:
    before = set(redis.keys())
    with pytest.raises(Problem):
        accept(jobs, "ann", quota=Quota(jobs=0), entry=Entry("dain:idempotency:k", "v", 9))
    assert set(redis.keys()) == before
    accept(jobs, "ann", entry=Entry("dain:idempotency:k", "v", 9))
    assert redis.get("dain:idempotency:k") == b"v" and 0 < int(redis.ttl("dain:idempotency:k")) <= 9


def test_an_owner_lists_its_own_jobs_alone(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOOK_UP", 2)  # so that few jobs take several looks
    made = [accept(jobs, owner).id for owner in ("ann", "bob", "bob", "ann", "bob", "ann")]
    assert listed(jobs, "ann") == [made[5], made[3], made[0]]
    assert listed(jobs, "eve") == []
    for job_id in made[:4]:
        jobs.cancel(job_id)
    assert listed(jobs, "ann", State.CANCELLED) == [made[3], made[0]]
    assert listed(jobs, "bob", State.QUEUED) == [made[4]]


def test_a_page_that_looks_at_much_ends_early_and_goes_on(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [accept(jobs, owner).id for owner in ["ann"] + ["bob"] * 5 + ["ann"] * 5]
    for job_id in made[:6]:
        jobs.cancel(job_id)
    monkeypatch.setattr(machine, "LOOK_UP", 2)
    monkeypatch.setattr(machine, "MOST_LOOKED_AT", 4)
    page, cursor = jobs.page("ann", State.CANCELLED)
    assert page == [] and cursor is not None
    assert listed(jobs, "ann", State.CANCELLED) == [made[0]]


def listed(jobs: Jobs, owner: str, status: State | None = None) -> list[str]:
    """The ids of all pages."""
    ids, cursor = [], None
    while True:
        page, cursor = jobs.page(owner, status, cursor, limit=2)
        ids += [job.id for job in page]
        if cursor is None:
            return ids


def test_jobs_that_an_earlier_release_recorded_and_removed_are_indexed(
    jobs: Jobs, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOOK_UP", 2)
    kept = [accept(jobs, owner).id for owner in ("ann", "bob", "ann")]
    removed = accept(jobs, "bob").id
    before = {owner: listed(jobs, owner) for owner in ("ann", "bob")}
    redis.zrem(ALL, removed)
    redis.delete(job_key(removed), OWNERS, owner_key("ann"))
    redis.sadd(OWNERS, "bob")
    jobs.index_owners()
    assert listed(jobs, "ann") == before["ann"]
    assert redis.zrange(owner_key("bob"), 0, -1) == [kept[1].encode()]


def test_pages_of_jobs_with_a_reference(jobs: Jobs, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOOK_UP", 2)
    monkeypatch.setattr(machine, "MOST_LOOKED_AT", 6)
    made = [accept(jobs, handling=Handling(reference="a" if n in (0, 3, 4) else None)).id for n in range(13)]
    redis.hset(job_key(made[7]), "metadata", "[")  # broken
    pages, cursor = [], None
    while not pages or cursor:
        page, cursor = jobs.page(DEFAULT_OWNER, cursor=cursor, limit=1, reference="a")
        pages.append([job.id for job in page])
    assert pages == [[], [made[4]], [made[3]], [made[0]]]
    assert jobs.page(DEFAULT_OWNER, metadata={"a": "b"})[0] == []


def test_a_deleted_job_leaves_nothing(jobs: Jobs, job: Job, redis: Redis) -> None:
    planned(jobs, job, segments=3)
    jobs.complete(jobs.claim(job.id, "segment-0", "ann"), task={"key": "k"})
    jobs.cancel(job.id)
    jobs.delete(job.id)
    assert not [key for key in redis.scan_iter() if job.id.encode() in key]
    assert jobs.page(DEFAULT_OWNER)[0] == [] and sum(jobs.counts().values()) == 0


def test_of_a_job_that_is_over_and_cleaned_up_only_its_record_is_left(
    jobs: Jobs, job: Job, redis: Redis
) -> None:
    planned(jobs, job, segments=3)
    late = jobs.claim(job.id, "segment-0", "ann")
    jobs.cancel(job.id)
    jobs.cleaned(job.id)
    assert not jobs.report(late, 5) and jobs.complete(late) is None
    assert not jobs.release(late, failed=True)
    assert [key.decode() for key in redis.scan_iter("dain:job:*")] == [f"dain:job:{job.id}"]
    assert jobs.unclean() == [] and jobs.get(job.id).status is State.CANCELLED
