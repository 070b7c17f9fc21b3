"""What a call to the service can end in, and how long it is worth repeating."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

CONNECTION_SECONDS = 30.0  # of pauses; a service that is started again is back by then
BUSY_SECONDS = 150.0  # of pauses; a full queue asks for 30 s each time
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
IN_USE = "urn:dain:problem:idempotency-key-in-use"

T = TypeVar("T")


class ClientError(Exception):
    """The service refused a request or cannot be reached. `problem` is its problem document, where it sent one.

    The text of the error is a sentence; no password of the service's URL is in it.
    """

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problem = dict(problem or {})

    @property
    def status(self) -> int | None:
        """The HTTP status of the response; None where there was no response."""
        return self.problem.get("status")


class Again(ClientError):
    """A refusal that passes. Another attempt is due after `pause` seconds, or after the usual time where it is None."""

    def __init__(self, message: str, problem: Mapping[str, Any], pause: float | None) -> None:
        super().__init__(message, problem)
        self.pause = pause


def raise_for_problem(response: httpx.Response) -> None:
    """Raises ClientError unless the response is a success or 304; `Again` where a later attempt may fare better."""
    if response.is_success or response.status_code == 304:
        return
    response.read()
    try:
        problem = response.json()
        message = str(problem["detail"])
    except (ValueError, LookupError, TypeError):  # a proxy's page, say
        problem = {"status": response.status_code}
        place = response.url.copy_with(query=None)  # the query of a link to a store is a login
        message = f"{place} answered {response.status_code} {response.reason_phrase}."
    if response.status_code == 401:
        message += " The client and the commands send the token in DAIN_TOKEN (or --token)."
    if response.status_code in (429, 503) or problem.get("type") == IN_USE:
        seconds = response.headers.get("Retry-After", "")
        raise Again(message, problem, float(seconds) if seconds.isdecimal() else None)
    raise ClientError(message, problem)


def unreachable(url: object, error: httpx.TransportError) -> ClientError:
    """The error of a connection to `url` that failed."""
    return ClientError(f"The service at {url} cannot be reached: {error or type(error).__name__}.")


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
        except Again as again:
            in_use = again.problem.get("type") == IN_USE
            kind, patience = ("in use", in_use_seconds) if in_use else ("busy", BUSY_SECONDS)
            failure, pause = again, usual if again.pause is None else again.pause
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
