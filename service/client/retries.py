"""How long a call is worth repeating."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

import httpx

from .errors import IN_USE, Busy, ClientError, refusal, unreachable

CONNECTION_SECONDS = 30.0  # of pauses; a service that is started again is back by then
BUSY_SECONDS = 150.0  # of pauses; a full queue asks for 30 s each time
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

T = TypeVar("T")


def raise_for_problem(response: httpx.Response) -> None:
    """Raises ClientError unless the response is a success or 304."""
    if not response.is_success:
        response.read()
    error = refusal(response)
    if error is not None:
        raise error


def persist(call: Callable[[], T], url: object, in_use_seconds: float = BUSY_SECONDS) -> T:
    """Makes a call to the service at `url` until it succeeds, is refused for good, or patience is at its end.

    `call` must be safe to repeat. Patience is the sum of the pauses between attempts, counted for each of three kinds
    of failure: a broken connection, a busy service, and an earlier attempt that the service is still working on, for
    which `in_use_seconds` is the patience.
    """
    paused: dict[str, float] = defaultdict(float)
    usual = FIRST_PAUSE
    while True:
        failure: ClientError
        try:
            return call()
        except Busy as busy:
            in_use = busy.slug == IN_USE
            kind, patience = ("in use", in_use_seconds) if in_use else ("busy", BUSY_SECONDS)
            failure, pause = busy, usual if busy.retry_after is None else busy.retry_after
        except httpx.TransportError as error:
            kind, patience = "unreachable", CONNECTION_SECONDS
            failure, pause = unreachable(url, error), usual
        if pause > patience:  # as for a quota that comes back tomorrow
            raise failure
        pause = min(max(pause, FIRST_PAUSE), LONGEST_PAUSE)
        paused[kind] += pause
        if paused[kind] > patience:
            raise failure
        time.sleep(pause)
        usual *= 2
