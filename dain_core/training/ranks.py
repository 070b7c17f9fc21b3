"""The processes of one run, a GPU each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dain_core.runtime.devices import named_device


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run.

    Attributes:
        index: 0 is the one that writes files.
        count: how many there are.
        device: what this one computes on.
    """

    index: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.index == 0

    def seed(self, run: int) -> int:
        """Of this process's data, by the run's."""
        return run + 1000 * self.index

    def share(self, numbers: Sequence[float]) -> list[float]:
        """The first process's numbers, in all. Waits for the others, for no device."""
        if self.count == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.broadcast(tensor, 0)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the first one; an empty list in the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(value, values)
        return values or []

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun, or `dain train` itself, has started (WORLD_SIZE and so on), or be the only one.

    Inside of it again it changes nothing.

    Args:
        device: "cpu", "cuda" or "auto": see `named_device`; of several processes each takes a GPU of its own.

    Raises:
        DeviceError: there is no such device.
    """
    index, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = named_device(device)
    if place.type == "cuda":
        place = torch.device("cuda", place.index or int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    if count == 1 or dist.is_initialized():  # alone, or joined already, for several runs
        yield Ranks(index, count, place)
        return
    # What the host needs travels without the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(index, count, place)
    finally:
        dist.destroy_process_group()
