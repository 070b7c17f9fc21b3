"""What a queued job has before it: places and seconds."""

from __future__ import annotations

from typing import Any

import pytest

from service.jobs.backlog import Backlog, LiveJob, rates_of
from service.jobs.workers import WorkerRecord

RATES = {"dain": 10.0, "dain-lite": 100.0}


def job(name: str, owner: str = "ann", work: float = 100, **others: Any) -> LiveJob:
    given = {"is_queued": True, "priority": "normal", "model": "dain", "left": work, **others}
    return LiveJob(id=name, owner=owner, work=work, **given)


def places(backlog: Backlog) -> list[str]:
    queued = [job.id for job in backlog.jobs if job.is_queued]
    return sorted(queued, key=lambda name: backlog.position(name) or 0)


def test_the_smallest_is_begun_first_and_every_fourth_time_the_oldest() -> None:
    sizes = {"a": 900, "b": 500, "c": 100, "d": 200, "e": 300, "f": 400}
    assert places(Backlog([job(name, work=size) for name, size in sizes.items()], [], {})) == list("cdeafb")


def test_jobs_of_one_size_are_begun_in_the_order_in_which_they_came() -> None:
    assert places(Backlog([job(name) for name in "abcdefg"], [], {})) == list("abcdefg")


def test_priority_counts_in_an_owners_order() -> None:
    jobs = [job("a", priority="low"), job("b"), job("c", priority="high")]
    assert places(Backlog(jobs, [], {})) == list("cba")


def test_owners_take_turns() -> None:
    jobs = [*(job(name) for name in "abc"), *(job(name, "bob") for name in "xy"), job("z", "eve")]
    assert places(Backlog(jobs, ["bob", "ann"], {})) == ["x", "a", "z", "y", "b", "c"]


def test_what_runs_has_no_place() -> None:
    backlog = Backlog([job("a", is_queued=False), job("b")], [], {})
    assert (backlog.position("a"), backlog.position("b"), backlog.position("c")) == (None, 0, None)


def test_the_seconds_are_those_of_what_goes_first_and_of_others_shares() -> None:
    film = job("film", work=10_000, left=5_000, is_queued=False)
    lite = job("lite", work=50, model="dain-lite")
    backlog = Backlog(
        [film, lite, job("clip"), job("other", "bob", work=10_000), job("small", "eve", 20)], [], RATES
    )
    assert backlog.seconds_until_done("lite") == pytest.approx(0.5 + 0.5 + 0.5)
    assert backlog.seconds_until_done("clip") == pytest.approx(10.5 + 10.5 + 2)
    assert backlog.seconds_until_done("film") == pytest.approx(510.5 + 510.5 + 2)
    assert backlog.seconds_until_done("unknown") is None
    assert backlog.with_job(job("new", "eve", 80)).seconds_until_done("new") == pytest.approx(10 + 10 + 10)


def test_without_a_measured_speed_nothing_is_said() -> None:
    backlog = Backlog([job("a"), job("b", work=200, model="film"), job("c", "bob", model="film")], [], RATES)
    assert backlog.seconds(job("a")) == 10 and backlog.seconds(job("b", model="film")) is None
    assert [backlog.seconds_until_done(name) for name in "abc"] == [20, None, None]


def test_the_speeds_of_all_workers_add_up() -> None:
    def worker(model: str, ready: bool = True, **rates: float) -> WorkerRecord:
        return WorkerRecord(
            name="w", host="h", pid=1, device="cpu", device_name="cpu", backend="cpu", model=model, precision="fp32",
            ready=ready, started_at=0.0, megapixels_per_second=rates,
        )  # fmt: skip

    workers = [worker("dain", dain=10, lite=100), worker("dain", dain=5), worker("lite", lite=50)]
    assert rates_of([*workers, worker("dain", ready=False, dain=7)]) == {"dain": 15, "lite": 150, "auto": 65}
