"""Faults at random moments, round after round, on the whole service: `python -m tests.faults --seed 7 --rounds 20`.

The seed decides which faults strike, when, and what the clients do meanwhile. When exactly a process meets a fault is
up to the machine. `--only N` plays one round of a seed again.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults import checker, clips
from tests.faults.clients import Client
from tests.faults.faults import deck
from tests.faults.rounds import Round, storm, undisturbed
from tests.faults.stack import Stack, running


def main() -> None:
    """Play what the command line asks for; ends with status 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", type=int, metavar="N", help="play round N alone")
    parser.add_argument("--faults", type=int, default=2, help="how many strike in a round")
    parser.add_argument("--select", default="", metavar="REGEX", help="faults to choose from")
    parser.add_argument(
        "--storm", type=int, default=0, metavar="JOBS", help="afterwards, jobs among dying workers"
    )
    parser.add_argument(
        "--noticed-within", type=float, metavar="SECONDS", help="fail where a dead worker is noticed later"
    )
    parser.add_argument("--worker-ttl", default="3", help="DAIN_WORKER_TTL_SECONDS of the service")
    parser.add_argument(
        "--clock", action="store_true", help="set the clock of the processes, too (by libfaketime)"
    )
    parser.add_argument("--s3", action="store_true", help="the store is a bucket")
    options = parser.parse_args()
    print(f"SEED={options.seed} ROUNDS={options.rounds}", flush=True)
    with (
        TemporaryDirectory() as folder,
        running(clock=options.clock, s3=options.s3, DAIN_WORKER_TTL_SECONDS=options.worker_ttl) as stack,
    ):
        if not stack.has_disks:
            print("This user may mount no disk: no disk is filled.")
        wrong = play(stack, options, Path(folder))
        print("starts:", ", ".join(f"{name} {program.starts}" for name, program in stack.programs.items()))
        if stack.noticed:
            slowest, middle = max(stack.noticed), statistics.median(stack.noticed)
            wrong += options.noticed_within is not None and slowest > options.noticed_within
            print(
                f"a dead worker's task was taken from it in {middle:.1f} s (median), {slowest:.1f} s (most)"
            )
        if wrong:
            sys.exit(f"{wrong} went wrong. Logs: {stack.folder}/logs")


def play(stack: Stack, options: argparse.Namespace, folder: Path) -> int:
    """Every round, and the storm; returns how many of them went wrong."""
    orders, poison = clips.orders(folder), clips.poison(folder)
    results = undisturbed(stack, orders)
    faults = [fault for fault in deck(stack) if re.search(options.select, str(fault))]
    random.Random(options.seed).shuffle(faults)
    wrong = 0

    def judge(name: str, clients: Sequence[Client], excuses: frozenset[str], began: float) -> None:
        nonlocal wrong
        found = checker.faults(stack, clients, results, excuses)
        print(
            f"{name}  {time.monotonic() - began:.1f} s  {'WRONG' if found else 'ok'}",
            *found,
            sep="\n      ",
            flush=True,
        )
        wrong += bool(found)

    for number in range(options.rounds) if options.only is None else [options.only]:
        began, first = time.monotonic(), number * options.faults
        drawn = [faults[k % len(faults)] for k in range(first, first + options.faults)]
        game = Round(stack, drawn, orders, poison, f"{options.seed} {number}")
        game.play()
        judge(
            f"{number:4d}  {game}", game.clients, frozenset().union(*(each.excuses for each in drawn)), began
        )
    if options.storm:
        began = time.monotonic()
        judge(f"{options.storm} jobs", storm(stack, orders, options.storm, options.seed), frozenset(), began)
    return wrong


if __name__ == "__main__":
    main()
