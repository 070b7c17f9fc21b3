"""A bounded queue between two threads. Each end learns that the other has gone, and why."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

CHECK_SECONDS = 0.2  # how long a wait may last before `check` is called again
CHECK_ITEMS = 4096  # of a long calculation, between two calls of `check`


class Closed(Exception):
    """The other end has gone, without an error of its own."""


def nothing() -> None:
    """Do nothing: a `check` that never stops the work, or a `progressed` that nobody listens to."""


def checked(items: Iterable[T], check: Callable[[], None]) -> Iterator[T]:
    """The items, with a call of `check` before every few thousand of them. It may raise to stop."""
    for number, item in enumerate(items):
        if number % CHECK_ITEMS == 0:
            check()
        yield item


class Channel(Generic[T]):
    """Holds at most ``size`` items. Waits call ``check`` several times a second; it may raise to give up."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.error: BaseException | None = None

    def put(self, item: T, check: Callable[[], None] = nothing) -> None:
        """Append an item once there is room.

        Raises:
            Closed: the other end has gone. Where it gave an error to `close`, that is raised instead.
        """
        with self._changed:
            self._wait(lambda: self._closed or len(self._items) < self._size, check)
            if self._closed:
                raise self.error or Closed
            self._items.append(item)
            self._changed.notify_all()

    def read(self, check: Callable[[], None] = nothing) -> Iterator[T]:
        """Yield items until the channel is closed and empty; then raise the error that it was closed with, if any."""
        while True:
            with self._changed:
                self._wait(lambda: self._closed or bool(self._items), check)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self.error:
            raise self.error

    def close(self, error: BaseException | None = None) -> None:
        """Say that nothing more will be put, or nothing more read. Either end may call it, any number of times."""
        with self._changed:
            self._closed = True
            self.error = self.error or error
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], check: Callable[[], None]) -> None:
        while not self._changed.wait_for(condition, CHECK_SECONDS):
            check()
