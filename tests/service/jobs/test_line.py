"""The line of ready tasks: whose turn it is."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis

from service.jobs.keys import Quota
from service.jobs.machine import Jobs
from service.jobs.names import ASSEMBLE, PLAN, job_key, new_job_id
from service.jobs.options import Handling, Options
from service.jobs.problems import Problem
from service.jobs.records import State
from service.settings import Settings

SEGMENT_WORK = 100.0  # megapixels of new frames


@pytest.fixture
def jobs(redis: Redis, settings: Settings) -> Jobs:
    return Jobs.from_settings(redis, settings)


class Bench:
    """One worker that makes a segment of `SEGMENT_WORK` in each of its turns."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.segments: dict[str, int] = {}  # of each job
        self.made: Counter[str] = Counter()  # segments, by job

    def accept(
        self, segments: int, owner: str = "default", priority: str = "normal", weight: float = 1
    ) -> str:
        job_id = new_job_id()
        self.segments[job_id] = segments
        self.jobs.create(
            job_id,
            source="uploads/x",
            filename="a.mp4",
            options=Options(),
            handling=Handling(priority=priority),
            input={},
            owner=owner,
            work=SEGMENT_WORK * segments,
            weight=weight,
        )
        return job_id

    def serve(self) -> tuple[str, str] | None:
        """Do the task whose turn it is."""
        taken = self.jobs.next_task()
        if taken:
            claim = self.jobs.claim(*taken, "ann")
            if claim.task == ASSEMBLE:
                self.jobs.finish(claim.job_id, State.SUCCEEDED, claim=claim)
            else:
                self.made[claim.job_id] += claim.task != PLAN
                total = {"segments_total": self.segments[claim.job_id]} if claim.task == PLAN else {}
                self.jobs.complete(claim, job=total)
        return taken

    def serve_segments(self, number: int) -> None:
        """Do tasks until so many more segments are made."""
        until = self.made.total() + number
        while self.made.total() < until:
            assert self.serve()

    def turns_to_finish(self, job_id: str) -> int:
        """How many tasks are done until the job's end, its own among them."""
        turns = 0
        while self.jobs.state(job_id) is not State.SUCCEEDED:
            assert self.serve()
            turns += 1
        return turns


@pytest.fixture
def bench(jobs: Jobs) -> Bench:
    return Bench(jobs)


@pytest.mark.parametrize("owner", ["default", "another"])
def test_a_film_does_not_hold_up_a_clip(bench: Bench, owner: str) -> None:
    film = bench.accept(1000)
    bench.serve_segments(50)
    clip = bench.accept(2, owner)
    assert bench.turns_to_finish(clip) <= 4 + 3  # its four tasks, and turns of the film between them
    assert bench.made[film] <= 53


def test_a_film_is_not_passed_for_ever(bench: Bench) -> None:
    """Clips come as fast as they are made."""
    film = bench.accept(20)
    for _ in range(30):
        clip = bench.accept(1)
        assert bench.turns_to_finish(clip) <= 3 + 1
    assert bench.jobs.state(film) is State.SUCCEEDED


def test_jobs_of_one_size_end_in_the_order_in_which_they_came(bench: Bench) -> None:
    made = [bench.accept(4) for _ in range(5)]
    ended = []
    while bench.serve():
        ended += [
            job_id for job_id in made if job_id not in ended and bench.jobs.state(job_id) is State.SUCCEEDED
        ]
    assert ended == made


def test_owners_get_the_same_share_however_many_jobs_they_have(bench: Bench) -> None:
    many = {bench.accept(100, "ann") for _ in range(8)}
    alone = bench.accept(100, "bob")
    bench.serve_segments(60)
    assert 28 <= bench.made[alone] <= 32 and sum(bench.made[job_id] for job_id in many) >= 28


def test_an_owner_gets_a_share_by_its_weight(bench: Bench) -> None:
    light, heavy = bench.accept(100, "ann"), bench.accept(100, "bob", weight=3)
    bench.serve_segments(80)
    assert 57 <= bench.made[heavy] <= 63 and bench.made[light] == 80 - bench.made[heavy]


@pytest.mark.parametrize("weight", ["nan", "inf", "0", "-3", "much", ""])
def test_a_weight_that_is_no_positive_number_is_one(bench: Bench, redis: Redis, weight: str) -> None:
    film, other = bench.accept(100, owner="ann"), bench.accept(100, owner="bob")
    redis.hset(job_key(film), "weight", weight)
    bench.serve_segments(40)
    assert bench.made[film] == pytest.approx(20, abs=1) and bench.made[other] == pytest.approx(20, abs=1)


def test_an_owner_that_was_away_has_saved_up_nothing(bench: Bench) -> None:
    early = bench.accept(1, "ann")
    bench.turns_to_finish(early)
    busy = bench.accept(200, "bob")
    bench.serve_segments(100)
    bench.accept(200, "ann")
    bench.serve_segments(20)
    assert 108 <= bench.made[busy] <= 112


def test_priority_goes_first_and_holds_nothing_up_for_ever(bench: Bench) -> None:
    low, normal, high = (bench.accept(10, priority=priority) for priority in ("low", "normal", "high"))
    assert bench.turns_to_finish(high) <= 12 * 4 / 3
    assert bench.turns_to_finish(normal) <= 12 * 4 / 3
    assert bench.made[low] < 10
    for _ in range(20):
        bench.turns_to_finish(bench.accept(1, priority="high"))
    assert bench.jobs.state(low) is State.SUCCEEDED


def test_what_is_over_or_taken_leaves_the_line(bench: Bench, jobs: Jobs, redis: Redis) -> None:
    taken, cancelled, removed = (bench.accept(1) for _ in range(3))
    jobs.claim(taken, PLAN, "ann")
    jobs.cancel(cancelled)
    jobs.cancel(removed)
    jobs.delete(removed)
    assert jobs.in_line() == set() and jobs.next_task() is None
    assert not redis.keys("dain:job:*:ready") and not redis.exists(
        "dain:line", "dain:line:jobs:default", "dain:line:ages:default"
    )


def test_what_an_earlier_release_took_is_passed_over(bench: Bench, jobs: Jobs, redis: Redis) -> None:
    """Its workers take what an entry of the queue names, and know of no line."""
    taken, cancelled, removed, ready = (bench.accept(1) for _ in range(4))
    redis.hset(job_key(taken, "task:plan"), "state", "running")
    redis.hset(job_key(cancelled), "state", "cancelled")
    redis.delete(job_key(removed))
    redis.zrem("dain:line:jobs:default", cancelled)
    assert jobs.next_task() == (ready, PLAN) and jobs.next_task() is None and jobs.in_line() == set()


def test_what_an_earlier_release_queued_can_be_offered(bench: Bench, jobs: Jobs, redis: Redis) -> None:
    job_id = bench.accept(1)
    redis.delete("dain:line", "dain:line:jobs:default", job_key(job_id, "ready"))
    redis.hdel(job_key(job_id), "work", "weight")
    assert jobs.next_task() is None
    jobs.offer(job_id, PLAN)
    jobs.offer(job_id, "segment-3")  # which is not queued
    assert jobs.in_line() == {(job_id, PLAN)} and jobs.next_task() == (job_id, PLAN)


def test_what_is_given_back_lost_or_to_be_made_again_is_in_the_line(bench: Bench, jobs: Jobs) -> None:
    job_id = bench.accept(1)
    jobs.release(jobs.claim(job_id, PLAN, "ann"), failed=False)
    assert jobs.in_line() == {(job_id, PLAN)}
    jobs.requeue_lost(job_id, PLAN, jobs.claim(job_id, PLAN, "ann").token)
    assert jobs.in_line() == {(job_id, PLAN)}
    jobs.release(jobs.claim(job_id, PLAN, "ann"), failed=False, needs_model="film")
    assert jobs.in_line() == set()  # the janitor offers it once a worker may serve the model
    bench.jobs.offer(job_id, PLAN)
    bench.serve_segments(1)
    jobs.redo(jobs.claim(job_id, ASSEMBLE, "ann"), ["segment-0"])
    assert jobs.in_line() == {(job_id, "segment-0")}


def test_what_is_done_no_longer_counts_as_work_before_its_owner(bench: Bench, jobs: Jobs) -> None:
    film, quota = bench.accept(10), Quota(work=1000)
    with pytest.raises(Problem) as refused:
        jobs.check_quota("default", quota, 1, work=SEGMENT_WORK)
    assert refused.value.slug == "too-much-work" and refused.value.extra == {"limit": 1000, "used": 1000}
    bench.serve_segments(1)
    jobs.check_quota("default", quota, 1, work=SEGMENT_WORK)
    [job] = jobs.backlog().jobs
    assert (job.id, job.work, job.left, job.is_queued) == (film, 1000, 900, False)
