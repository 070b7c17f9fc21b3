"""The service under work for a while, and whether its processes grow: `python -m tests.faults.soak --minutes 20`."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import linear_regression, mean
from tempfile import TemporaryDirectory

import psutil

from tests.faults import clips
from tests.faults.clients import Client, Order
from tests.faults.stack import Stack, running

CLIENTS = 3
INTERVAL = 2.0  # seconds between two samples
WARM_UP = 1 / 3  # of the time: what is loaded once, and what caches take
MOST_GROWTH = 0.02  # of what it is, from the warm-up to the end; less says nothing
LEAST_GROWTH = {"RSS": 2.0, "descriptors": 2.0, "VRAM": 8.0}
FEED = 5.0  # MB that the API's feed of events takes until it has as many as it keeps
UNITS = {"RSS": "MB", "descriptors": "", "VRAM": "MB"}

Series = list[tuple[float, float]]  # seconds and what was measured then


@dataclass(frozen=True)
class Trend:
    """What one process had of something after the warm-up, and how that grew until the end."""

    begins: float
    grows: float

    @classmethod
    def of(cls, series: Series) -> Trend:
        steady = series[int(len(series) * WARM_UP) :]
        times, values = zip(*steady, strict=True)
        slope = linear_regression(times, values).slope
        return cls(mean(values[: len(values) // 10 + 1]), slope * (times[-1] - times[0]))

    def is_flat(self, name: str, what: str) -> bool:
        bounded = FEED if (name, what) == ("api", "RSS") else 0.0
        return self.grows <= bounded + max(LEAST_GROWTH[what], MOST_GROWTH * self.begins)


def work(stack: Stack, orders: Sequence[Order], until: float) -> list[Client]:
    """Has jobs made one after another by several clients until then; returns all clients."""
    done: list[Client] = []

    def send(random: Random) -> None:
        while time.monotonic() < until:
            client = Client(stack.url, random.choice(orders), deletes=True, random=random)
            client.run()
            done.append(client)

    senders = [threading.Thread(target=send, args=(Random(n),), daemon=True) for n in range(CLIENTS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return done


def sample(stack: Stack, series: Mapping[tuple[str, str], Series]) -> None:
    """Measure each program with its children, and what of a GPU its worker says that it has."""
    now = time.monotonic()
    for name, program in stack.programs.items():
        with suppress(psutil.Error):
            family = [psutil.Process(program.pid)]
            if name == "api":  # a worker's children come and go
                family += family[0].children()
            series[name, "RSS"].append((now, sum(each.memory_info().rss for each in family) / 1e6))
            series[name, "descriptors"].append((now, sum(each.num_fds() for each in family)))
    for record in stack.workers.all():
        if record.vram_total_bytes:
            series[f"worker {record.pid}", "VRAM"].append((now, record.vram_used_bytes / 1e6))


def main() -> None:
    """Soak for as long as the command line says; ends with status 1 where something grew, or a job went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    series: dict[tuple[str, str], Series] = defaultdict(list)
    settings = {"DAIN_DEVICE": options.device, "DAIN_PRECISION": "auto"}
    with TemporaryDirectory() as folder, running(workers=1, disks=False, **settings) as stack:
        until, over = time.monotonic() + 60 * options.minutes, threading.Event()

        def keep_sampling() -> None:
            while not over.wait(INTERVAL):
                sample(stack, series)

        sampler = threading.Thread(target=keep_sampling, daemon=True)
        sampler.start()
        clients = work(stack, clips.orders(Path(folder)), until)
        over.set()
        sampler.join()
        report(clients, series, [name for name, program in stack.programs.items() if program.starts > 1])


def report(clients: Sequence[Client], series: Mapping[tuple[str, str], Series], died: Sequence[str]) -> None:
    """Print what was measured; ends the process where something is wrong."""
    wrong = [f"{name} died" for name in died]
    wrong += [client.fault or str(client.error) for client in clients if client.fault or client.error]
    print(f"{len(clients)} jobs")
    for (name, what), measured in series.items():
        trend = Trend.of(measured)
        verdict = "flat" if trend.is_flat(name, what) else "grows"
        print(f"{name:10} {what:12} {trend.begins:8.1f} {trend.grows:+8.1f} {UNITS[what]:2}  {verdict}")
        wrong += [f"{what} of {name} grows"] if verdict == "grows" else []
    if wrong:
        sys.exit("\n".join(wrong[:20]))


if __name__ == "__main__":
    main()
