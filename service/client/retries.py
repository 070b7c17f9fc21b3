"""How long a call is worth repeating."""

from __future__ import annotations

from collections import defaultdict

from .errors import IN_USE, Busy, Unreachable

CONNECTION_SECONDS = 30.0  # of pauses; a service that is started again is back by then
BUSY_SECONDS = 150.0  # of pauses; a full queue asks for 30 s each time
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


class Patience:
    """The pauses between the attempts of one call.

    Patience is the sum of the pauses, counted for each of three kinds of failure: a connection that fails, a busy
    service, and an earlier attempt that the service is still working on, for which `in_use_seconds` is the patience.
    """

    def __init__(self, in_use_seconds: float = BUSY_SECONDS) -> None:
        self._in_use_seconds = in_use_seconds
        self._paused: dict[str, float] = defaultdict(float)
        self._usual = FIRST_PAUSE

    def pause(self, failure: Busy | Unreachable, connection_seconds: float) -> float:
        """Seconds until the next attempt; raises `failure` where patience is at its end."""
        wanted = failure.retry_after if isinstance(failure, Busy) else None
        if isinstance(failure, Unreachable):
            kind, most = "unreachable", connection_seconds
        elif failure.slug == IN_USE:
            kind, most = "in use", self._in_use_seconds
        else:
            kind, most = "busy", BUSY_SECONDS
        pause = self._usual if wanted is None else wanted
        if pause > most:  # as for a quota that comes back tomorrow
            raise failure
        pause = min(max(pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._paused[kind] += pause
        if self._paused[kind] > most:
            raise failure
        self._usual *= 2
        return pause
