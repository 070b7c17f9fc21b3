"""The semaphore that uploads pass to be looked into: fair between owners, with an end to those that wait.

A look takes a core for as long as the file's size asks. One caller's heavy files must hold up nobody else, so an owner
has at most half of the places, and a place that comes free goes to the owner whose turn it is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.jobs.problems import Problem

LONGEST_OF_ONE = 100  # uploads of one owner that wait
LONGEST = 400  # uploads that wait
NEWEST = 0.2  # share of the newest look in the mean of their seconds
LONGEST_RETRY = 60.0  # seconds


class FairSemaphore:
    """A semaphore of `places` that goes round between owners. It belongs to one event loop."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._most_of_one = max(places // 2, 1)
        self._inside: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the owner whose turn it is comes first
        self._mean_seconds = 0.0

    @asynccontextmanager
    async def place(self, owner: str) -> AsyncIterator[None]:
        """Waits for a place of `owner`, and holds it. Raises as `check` does."""
        self.check(owner)
        await self._enter(owner)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds += NEWEST * (time.monotonic() - begun - self._mean_seconds)
            self._leave(owner)

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(map(len, list(self._waiting.values())))  # a copy: the metrics are read in a thread

    def check(self, owner: str) -> None:
        """Raises Problem 429 where too many uploads of `owner` wait, and 503 where too many wait at all."""
        of_owner, all_waiting = len(self._waiting.get(owner, ())), self.waiting
        if of_owner >= LONGEST_OF_ONE:
            detail = f"{of_owner} of your uploads wait to be looked into; send more when those are answered."
            raise Problem("too-many-uploads", detail, headers={"Retry-After": self._seconds_of(of_owner)})
        if all_waiting >= LONGEST:
            detail = f"{all_waiting} uploads wait to be looked into; try again later."
            raise Problem("busy", detail, headers={"Retry-After": self._seconds_of(all_waiting)})

    def _seconds_of(self, waiting: int) -> str:
        """About how long it takes until so many have left the line, as a Retry-After."""
        seconds = waiting * self._mean_seconds / self._most_of_one
        return str(math.ceil(min(max(seconds, 1.0), LONGEST_RETRY)))

    async def _enter(self, owner: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place was given already
                self._leave(owner)
            else:
                self._strike_off(owner, turn)
            raise

    def _strike_off(self, owner: str, turn: asyncio.Future[None]) -> None:
        self._waiting[owner].remove(turn)
        if not self._waiting[owner]:
            del self._waiting[owner]

    def _leave(self, owner: str) -> None:
        self._free += 1
        self._inside[owner] -= 1
        if not self._inside[owner]:
            del self._inside[owner]
        self._let_in()

    def _let_in(self) -> None:
        """Gives the free places away."""
        while self._free:
            able = (owner for owner in self._waiting if self._inside[owner] < self._most_of_one)
            if (owner := next(able, None)) is None:
                return
            turns = self._waiting.pop(owner)
            turns.popleft().set_result(None)
            if turns:
                self._waiting[owner] = turns  # behind the others
            self._free -= 1
            self._inside[owner] += 1
