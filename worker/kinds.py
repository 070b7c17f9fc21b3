"""Which frames of a result are new and which are the source's, for whoever shows the two beside each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.channel import checked, nothing
from worker.plan import JobPlan

SOURCE, NEW, NEW_IN_ITS_PLACE, HELD = "snNh"
UNEVEN = 0.001  # seconds that a frame is away from its place in an even row


def kinds(plan: JobPlan, is_new: str, check: Callable[[], None] = nothing) -> dict[str, Any]:
    """The document of the result's frames: see `service.api.routes.results.Frames`.

    ``is_new`` has a 1 for each frame that the network made, and a 0 for each other. ``check`` may raise to stop.
    """
    letters, times, source = [], [], -1
    for frame, made in zip(checked(plan.schedule, check), is_new, strict=True):
        comes = frame.source > source
        source = max(source, frame.source)
        letters.append(_letter(comes, made == "1"))
        times.append(round(float(plan.shown(frame.time)), 6))
    rate = float(plan.schedule.average_rate / plan.options.stretch)
    is_even = all(abs(times[0] + place / rate - time) < UNEVEN for place, time in enumerate(times))
    return {
        "frames": "".join(letters),
        "start": times[0],
        "rate": rate if is_even else None,
        "times": None if is_even else times,
    }


def _letter(comes: bool, is_new: bool) -> str:
    if comes:
        return NEW_IN_ITS_PLACE if is_new else SOURCE
    return NEW if is_new else HELD
