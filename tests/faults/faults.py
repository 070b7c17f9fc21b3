"""The faults, each at a moment in the life of a job. `deck` is all of them; a round strikes with some.

A fault that lasts ends by itself: afterwards everything is in order but for what the service has to mend.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults.stack import JANITOR, Program, Stack

STAGES = ("plan", "segment", "assemble")  # moments that Redis tells
REQUESTS = ("accept", "delete")  # moments that the clients tell
MOMENTS = ("accept", *STAGES, "delete")

Strike = Callable[[Stack, Random], None]


@dataclass(frozen=True)
class Fault:
    """What to do to a stack, and when. `excuses` are problems with which a job may fail for it."""

    name: str
    moment: str
    strike: Strike
    excuses: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.name} in {self.moment}"


def deck(stack: Stack) -> list[Fault]:
    """Every fault that can be had here, at every moment where it makes a difference."""
    strikes: dict[str, Strike] = {}
    for kind in ("worker", "api", "redis", "janitor", "webhooks"):
        strikes[f"kill -9 {kind}"] = _kill(kind)
        strikes[f"SIGTERM {kind}"] = _signal(kind, signal.SIGTERM)
        strikes[f"SIGSTOP {kind} 1 s"] = _stop(kind, 1.0)
        strikes[f"SIGSTOP {kind} 10 s"] = _stop(kind, 10.0)
    strikes["Redis gone 1 s"] = _gone("redis", 1.0)
    strikes["Redis gone 30 s"] = _gone("redis", 30.0)
    links = {"link to Redis": stack.link, "link to API": stack.web, "link to webhook": stack.hook_link}
    strikes["webhook answers 500"] = _weather(stack.hook_link.failing)
    if stack.bucket_link:
        links["link to S3"] = stack.bucket_link
        strikes["S3 answers 500"] = _weather(stack.bucket_link.failing)
        strikes["S3 cut off in mid-part"] = _weather(lambda: stack.bucket_link.breaking(4096))
    for name, proxy in links.items():
        strikes[f"{name} cut"] = _weather(proxy.cut)
        strikes[f"{name} delayed"] = _weather(lambda proxy=proxy: proxy.delayed(0.3))
        strikes[f"{name} throttled"] = _weather(lambda proxy=proxy: proxy.throttled(20_000))
        strikes[f"{name} a black hole"] = _weather(proxy.held)
        strikes[f"{name} half closed"] = _weather(proxy.half_closed)
    strikes["two janitors"] = _second_janitor
    if stack.has_clock:
        strikes["clock an hour ahead"] = _set_clock(3600)
        strikes["clock an hour back"] = _set_clock(-3600)
    faults = [Fault(name, moment, strike) for name, strike in strikes.items() for moment in MOMENTS]
    for error in ("oom", "fatal"):
        faults.append(Fault(f"CUDA {error}", "segment", _inject(error)))
    if stack.has_disks:
        full = frozenset({"insufficient-storage"})
        for place in ("state" if stack.bucket_link else "store", "redis", "tmp"):
            faults += [Fault(f"disk full: {place}", moment, _fill(place), full) for moment in MOMENTS]
    return faults


def _signal(kind: str, number: signal.Signals) -> Strike:
    return lambda stack, random: random.choice(stack.any_of(kind)).send(number)


def _kill(kind: str) -> Strike:
    def strike(stack: Stack, random: Random) -> None:
        program = random.choice(stack.any_of(kind))
        if kind == "worker":
            kill_worker(stack, program)
        else:
            program.send(signal.SIGKILL)

    return strike


def kill_worker(stack: Stack, worker: Program) -> None:
    """Kill a worker, and measure how soon its tasks are taken from it."""
    names = {record.name for record in stack.workers.all() if record.pid == worker.pid}
    held = {
        (job, task): fields["token"]
        for job, task, fields in stack.jobs.live_tasks()
        if fields.get("worker") in names and fields["state"] == "running"
    }
    worker.send(signal.SIGKILL)
    began = time.monotonic()

    def measure() -> None:
        while held and time.monotonic() - began < 120:
            now = {(job, task): fields.get("token") for job, task, fields in stack.jobs.live_tasks()}
            for name in [name for name, token in held.items() if now.get(name) != token]:
                del held[name]
                if name in now:  # else the job has ended
                    stack.noticed.append(time.monotonic() - began)
            time.sleep(0.1)

    threading.Thread(target=measure, name="measure", daemon=True).start()


def _stop(kind: str, seconds: float) -> Strike:
    def strike(stack: Stack, random: Random) -> None:
        program = random.choice(stack.any_of(kind))
        program.send(signal.SIGSTOP)
        time.sleep(seconds)
        program.send(signal.SIGCONT)

    return strike


def _gone(kind: str, seconds: float) -> Strike:
    def strike(stack: Stack, random: Random) -> None:
        with stack.any_of(kind)[0].held():
            time.sleep(seconds)

    return strike


def _weather(fault: Callable[[], AbstractContextManager[None]]) -> Strike:
    def strike(stack: Stack, random: Random) -> None:
        with fault():
            time.sleep(random.uniform(0.5, 8.0))

    return strike


def _second_janitor(stack: Stack, random: Random) -> None:
    janitor = stack.add("janitor-1", JANITOR)
    time.sleep(random.uniform(2.0, 8.0))
    del stack.programs["janitor-1"]
    janitor.end()


def _set_clock(ahead: int) -> Strike:
    def strike(stack: Stack, random: Random) -> None:
        stack.set_clock(ahead)
        time.sleep(random.uniform(2.0, 8.0))
        stack.set_clock(0)

    return strike


def _inject(error: str) -> Strike:
    def strike(stack: Stack, random: Random) -> None:
        (stack.folder / "inject" / error).touch()

    return strike


def _fill(place: str) -> Strike:
    def strike(stack: Stack, random: Random) -> None:
        ballast: Path = stack.folder / place / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * 2**16)
            time.sleep(random.uniform(1.0, 6.0))
        finally:
            ballast.unlink()

    return strike
