"""What the workers have before them, as it was at one moment: whose turn comes when, and how long it takes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from service.jobs.workers import WorkerRecord

AUTO = "auto"  # the model of the worker that plans the job
OLDEST_EVERY = 4  # turns of an owner; see lua/next.lua
SIZES = {"low": 10.0, "high": 0.1}  # see lua/common.lua


@dataclass(frozen=True)
class LiveJob:
    """A job that is not over. `work` is all of it and `left` what is not done yet, in megapixels of new frames."""

    id: str
    owner: str
    is_queued: bool
    priority: str
    model: str
    work: float
    left: float

    @property
    def rank(self) -> tuple[float, str]:
        """The order among an owner's jobs, but for the turns of the oldest."""
        return self.work * SIZES.get(self.priority, 1.0), self.id


@dataclass(frozen=True)
class Backlog:
    """Every job that is not over.

    Attributes:
        jobs: in no order.
        owners: those whose turn it is first come first.
        rates: what all workers together make in a second, in megapixels of new frames, by model. A model that no living
            worker has run is not among them.
    """

    jobs: Sequence[LiveJob]
    owners: Sequence[str]
    rates: Mapping[str, float]

    def position(self, job_id: str) -> int | None:
        """How many queued jobs are begun before this one; None where it is not queued."""
        return self._positions.get(job_id)

    def seconds_until_done(self, job_id: str) -> float | None:
        """How long it takes until the job is done; None where a model's speed is not known, or the job is over.

        Its owner's jobs that go first are done by then, and other owners get as much of the workers meanwhile.
        """
        if job_id not in self._finishes:
            return None
        owner, own = self._finishes[job_id]
        seconds = own + sum(min(all_of, own) for other, all_of in self._seconds.items() if other != owner)
        return seconds if math.isfinite(seconds) else None

    def with_job(self, job: LiveJob) -> Backlog:
        """The backlog as it would be with one more job."""
        return Backlog([*self.jobs, job], self.owners, self.rates)

    def seconds(self, job: LiveJob) -> float | None:
        """How long all workers together take for what is left of the job; None where its model's speed is not known."""
        rate = self.rates.get(job.model)
        return job.left / rate if rate else None

    def _seconds_or_never(self, job: LiveJob) -> float:
        seconds = self.seconds(job)
        return math.inf if seconds is None else seconds

    @cached_property
    def _ranked(self) -> Mapping[str, list[LiveJob]]:
        """The jobs of each owner, first those that go first."""
        found: defaultdict[str, list[LiveJob]] = defaultdict(list)
        for job in sorted(self.jobs, key=lambda job: job.rank):
            found[job.owner].append(job)
        return found

    @cached_property
    def _seconds(self) -> Mapping[str, float]:
        """How long all workers together take for an owner's jobs."""
        return {owner: sum(map(self._seconds_or_never, jobs)) for owner, jobs in self._ranked.items()}

    @cached_property
    def _finishes(self) -> Mapping[str, tuple[str, float]]:
        """For each job its owner, and when it would be done if there were no other owners."""
        finishes = {}
        for owner, jobs in self._ranked.items():
            moment = 0.0
            for job in jobs:
                moment += self._seconds_or_never(job)
                finishes[job.id] = owner, moment
        return finishes

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        """The queued jobs' places, as if owners took turns and each turn began a job."""
        places = {owner: place for place, owner in enumerate(self.owners)}
        owners = sorted(self._ranked, key=lambda owner: places.get(owner, len(places)))
        lines = [list(_in_turn([job for job in self._ranked[owner] if job.is_queued])) for owner in owners]
        turns = range(max(map(len, lines), default=0))
        begun = [line[turn].id for turn in turns for line in lines if turn < len(line)]
        return {job_id: place for place, job_id in enumerate(begun)}


def _in_turn(ranked: Sequence[LiveJob]) -> Iterator[LiveJob]:
    """An owner's jobs in the order in which they are begun: the first in rank, and every fourth time the oldest."""
    by_rank, by_age = iter(ranked), iter(sorted(ranked, key=lambda job: job.id))
    begun: set[str] = set()
    for turn in range(1, len(ranked) + 1):
        line = by_rank if turn % OLDEST_EVERY else by_age
        job = next(job for job in line if job.id not in begun)
        begun.add(job.id)
        yield job


def rates_of(workers: Sequence[WorkerRecord]) -> dict[str, float]:
    """What the workers that are ready make together in a second, by model; see `Backlog.rates`."""
    rates: defaultdict[str, float] = defaultdict(float)
    for worker in workers:
        if worker.ready:
            for model, rate in worker.megapixels_per_second.items():
                rates[model] += rate
            rates[AUTO] += worker.megapixels_per_second.get(worker.model, 0.0)
    return dict(rates)
