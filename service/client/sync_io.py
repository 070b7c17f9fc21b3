"""What `sync_client` does not write itself; see `async_io`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def in_thread(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    return call(*arguments, **named)
