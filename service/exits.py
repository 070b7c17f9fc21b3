"""The exit codes of `dain`. Scripts tell by them what happened, so a code never changes its meaning."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "All that was asked for is done."
    FAILED = 1, "Something else went wrong; a sentence on standard error says what."
    USAGE = 2, "The command or an option is wrong. Nothing was begun."
    UNREACHABLE = 3, "The service cannot be reached, or the connection was lost for too long."
    NOT_FOUND = 4, "There is no such job, or its result has been removed."
    JOB_FAILED = 5, "The job failed; its error is on standard error, and in the document that --json prints."
    JOB_CANCELLED = 6, "The job was cancelled."
    REFUSED = (
        7,
        "The service refused the request: the video, an option, or what the job's state does not allow.",
    )
    BUSY = 8, "The service cannot take it now: its queue, disk or quota is full. Later it may."
    UNAUTHORIZED = 9, "The service wants a key, or this key does not allow it."
    INTERRUPTED = 130, "Ctrl-C. Jobs that were accepted go on, unless you chose to cancel them."
