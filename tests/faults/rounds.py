"""A round: some clients, some faults, and what came of it. A storm: many small jobs, and workers that keep dying."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from tests.faults.clients import Client, Order
from tests.faults.faults import STAGES, Fault, kill_worker
from tests.faults.stack import Stack

MOST_DELAY = 0.3  # seconds from the beginning of a moment to the fault
DELETE_DELAY = 0.03
LOOK_SECONDS = 0.01  # between two looks whether a moment has come
POISONED_ROUNDS = 0.1
STORM_CLIENTS = 8
STORM_PATIENCE = 3600.0


class Round:
    """Plays `faults` on clients that order some of `orders`, and now and then the video that kills its worker."""

    def __init__(
        self, stack: Stack, faults: Sequence[Fault], orders: Sequence[Order], poison: Order, seed: str
    ) -> None:
        self._stack, self.faults = stack, faults
        self._random = Random(seed)
        self._begun: set[str] = set()
        self.missed: list[Fault] = []  #: faults whose moment did not come
        self.clients = [
            self._client(self._random.choice(orders), deletes=True),
            self._client(self._random.choice(orders), in_pieces=True),
            self._client(self._random.choice(orders), cancel_after=self._random.uniform(0.0, 4.0)),
            self._client(self._random.choice(orders), at_once=20),
        ]
        if self._random.random() < POISONED_ROUNDS:
            self.clients.append(self._client(poison))

    def _client(self, order: Order, **wishes: Any) -> Client:
        wishes = {"deletes": self._random.random() < 0.5, "random": Random(self._random.random())} | wishes
        return Client(self._stack.url, order, self._stack.webhook, begun=self._begun, **wishes)

    def play(self) -> None:
        """Return when every client and every fault has come to its end."""
        chances = [Random(self._random.random()) for _ in self.faults]
        strikers = [
            threading.Thread(target=self._strike, args=each, name="striker", daemon=True)
            for each in zip(self.faults, chances, strict=True)
        ]
        for client in self.clients:
            client.start()
        for striker in strikers:
            striker.start()
        for thread in [*self.clients, *strikers]:
            thread.join()

    def _strike(self, fault: Fault, chance: Random) -> None:
        while not self._has_come(fault.moment):
            if not any(client.is_alive() for client in self.clients):
                self.missed.append(fault)
                return
            time.sleep(LOOK_SECONDS)
        time.sleep(chance.uniform(0.0, DELETE_DELAY if fault.moment == "delete" else MOST_DELAY))
        fault.strike(self._stack, chance)

    def _has_come(self, moment: str) -> bool:
        if moment not in STAGES:
            return moment in self._begun
        return any(
            task.startswith(moment) and fields["state"] == "running"
            for _, task, fields in self._stack.jobs.live_tasks()
        )

    def __str__(self) -> str:
        faults = [f"{fault}{' (missed)' if fault in self.missed else ''}" for fault in self.faults]
        ends = sorted(client.status or "gone" for client in self.clients)
        return f"{', '.join(faults)} | {' '.join(ends)}"


def storm(stack: Stack, orders: Sequence[Order], jobs: int, seed: int) -> list[Client]:
    """Has `jobs` jobs made while a worker is killed every few seconds; returns their clients."""
    random, over = Random(seed), threading.Event()
    clients = [
        Client(stack.url, random.choice(orders), patience=STORM_PATIENCE, random=Random(random.random()))
        for _ in range(jobs)
    ]

    def kill() -> None:
        while not over.wait(random.uniform(2.0, 6.0)):
            kill_worker(stack, random.choice(stack.any_of("worker")))

    killer = threading.Thread(target=kill, name="killer", daemon=True)
    killer.start()
    with ThreadPoolExecutor(STORM_CLIENTS) as pool:
        list(pool.map(Client.run, clients))
    over.set()
    killer.join()
    return clients


def undisturbed(stack: Stack, orders: Sequence[Order]) -> dict[Order, str]:
    """The hash of what becomes of each order while nothing is wrong."""
    clients = [Client(stack.url, order) for order in orders]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
        assert client.status == "succeeded" and not client.fault, client.fault or client.error
    return {client.order: client.sha256 for client in clients}
