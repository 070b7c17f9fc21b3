"""The fair semaphore: in turn between owners, bounded, and no place is lost when somebody goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.api import fair
from service.api.fair import FairSemaphore
from service.jobs.problems import Problem

Arrive = Callable[[str], Awaitable[asyncio.Task[None]]]


class Hall:
    """Tasks that stand in line; `inside` are the owners of those that were let in, in order."""

    def __init__(self, semaphore: FairSemaphore) -> None:
        self.semaphore = semaphore
        self.inside: list[str] = []
        self._doors: list[asyncio.Event] = []

    async def arrive(self, owner: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._stand(owner))
        await asyncio.sleep(0)
        return task

    async def _stand(self, owner: str) -> None:
        async with self.semaphore.place(owner):
            self.inside.append(owner)
            self._doors.append(asyncio.Event())
            await self._doors[-1].wait()

    async def leave(self, number: int) -> None:
        """The one who was let in as the `number`-th leaves."""
        self._doors[number].set()
        for _ in range(5):
            await asyncio.sleep(0)


def test_one_owner_never_takes_all_places_and_others_come_in_turn() -> None:
    async def run() -> None:
        hall = Hall(FairSemaphore(4))
        for _ in range(6):
            await hall.arrive("heavy")
        assert hall.inside == ["heavy"] * 2
        await hall.arrive("light")
        assert hall.inside[2:] == ["light"]  # at once
        for owner in ("light", "light", "third"):
            await hall.arrive(owner)
        assert hall.inside[3:] == ["light"]
        await hall.leave(0)
        assert hall.inside[4:] == ["heavy"]  # has waited longer than `third`, and is behind it now
        await hall.leave(1)
        assert hall.inside[5:] == ["third"]
        for number in range(2, 6):
            await hall.leave(number)
        assert sorted(hall.inside[6:]) == ["heavy", "heavy", "light"]

    asyncio.run(run())


def test_who_goes_away_frees_a_place_or_leaves_the_line() -> None:
    async def run() -> None:
        hall = Hall(FairSemaphore(2))
        first, second, third = [await hall.arrive("one") for _ in range(3)]
        second.cancel()
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.sleep(0)
        assert len(hall.inside) == 2 and not third.done()
        await hall.leave(1)
        await third
        await hall.arrive("one")
        assert len(hall.inside) == 3

    asyncio.run(run())


def test_who_goes_away_just_when_the_turn_has_come_gives_it_on() -> None:
    async def run() -> None:
        hall = Hall(FairSemaphore(2))
        await hall.arrive("one")
        second, _ = await hall.arrive("one"), await hall.arrive("one")
        hall._doors[0].set()
        await asyncio.sleep(0)  # the first leaves, and the second is called
        second.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert second.cancelled() and len(hall.inside) == 2

    asyncio.run(run())


def test_few_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair, "LONGEST_OF_ONE", 2)
    monkeypatch.setattr(fair, "LONGEST", 3)

    async def run() -> None:
        hall = Hall(FairSemaphore(2))
        for _ in range(3):
            await hall.arrive("one")
        assert len(hall.inside) == 1 and hall.semaphore.waiting == 2
        with pytest.raises(Problem) as caught:
            hall.semaphore.check("one")
        assert (caught.value.slug, caught.value.status) == ("too-many-uploads", 429)
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
        hall.semaphore.check("two")
        for _ in range(2):
            await hall.arrive("two")
        with pytest.raises(Problem) as caught:
            hall.semaphore.check("three")
        assert (caught.value.slug, caught.value.status) == ("busy", 503)
        assert 1 <= int(caught.value.headers["Retry-After"]) <= 60

    asyncio.run(run())
