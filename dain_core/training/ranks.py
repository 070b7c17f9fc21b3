"""The processes of one training run, each with a GPU of its own."""

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
    """This process among all processes of a run.

    Attributes:
        index: the number of this process, from 0. Process 0 writes the files.
        count: the number of processes.
        device: the device on which this process computes.
    """

    index: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0

    def seed(self, run: int) -> int:
        """Return the seed of this process's data, from the seed of the run."""
        return run + 1000 * self.index

    def share(self, numbers: Sequence[float]) -> list[float]:
        """Return the first process's numbers in every process. This waits for the other processes, not for a device."""
        if self.count == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.broadcast(tensor, 0)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in the first process, and an empty list in the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(value, values)
        return values or []

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` in place by its sum over all processes, and return it."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Connect this process with the other processes of the run, which torchrun or `dain train` has started.

    The environment variables RANK, LOCAL_RANK and WORLD_SIZE name the processes. Without them this process is the only
    one. A second context within the first one changes nothing.

    Args:
        device: "cpu", "cuda", "cuda:1" or "auto"; see `named_device`. Each of several processes takes its own GPU.

    Raises:
        DeviceError: the device does not exist.
    """
    index, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    place = named_device(device)
    if place.type == "cuda":
        place = torch.device("cuda", place.index or int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    if count == 1 or dist.is_initialized():  # the only process, or connected by an outer context
        yield Ranks(index, count, place)
        return
    # Gloo carries the numbers that the host needs, without the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(index, count, place)
    finally:
        dist.destroy_process_group()
