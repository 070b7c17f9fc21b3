"""One budget of memory for all interpolators of a process, and the rule that one of them works at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet, ref

import torch

from dain_core.runtime.devices import is_unified
from dain_core.runtime.memory import usable_memory
from dain_core.runtime.ram import resident, usable_ram


class Member(Protocol):
    """What shares a budget: the stages of one network."""

    def held_bytes(self) -> int:
        """The bytes that it keeps while it does not work."""

    def release(self) -> None:
        """Let go of everything but those."""


class Budget:
    """How much memory of one device the members may take together.

    A member works in its turn and may then take what the others do not hold. It releases its graphs when another
    member's turn comes, so that never the working memory of two members is taken at once.

    Args:
        limit: bytes; None is four fifths of what this process can have on the device when a plan is made. Where a GPU
            has its memory of the machine's, what this process has in main memory counts, too.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._lock = threading.RLock()
        self._members: WeakSet[Member] = WeakSet()
        self._last: ref[Member] | None = None

    def join(self, member: Member) -> None:
        """Count what `member` holds from now on, for as long as it lives."""
        with self._lock:
            self._members.add(member)

    @contextmanager
    def turn(self, member: Member) -> Iterator[None]:
        """While this lasts, `member` alone works; other threads wait. Turns of one thread may be nested."""
        with self._lock:
            before = self._last() if self._last else None
            if before is not member:
                if before is not None:
                    before.release()
                self._last = ref(member)
            yield

    def left(self, member: Member, device: torch.device) -> int:
        """The bytes that `member` may take, with its weights and what it keeps."""
        limit = _usable(device) if self.limit is None else self.limit
        if device.type != "cpu" and is_unified(device):
            limit -= resident()
            _bound(device, limit)
        return limit - sum(other.held_bytes() for other in self._members if other is not member)


def _bound(device: torch.device, limit: int) -> None:
    """Let PyTorch keep no more than `limit` bytes of a device: what it has beyond a plan, the machine would lack."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(max(limit / total, 0.0), 1.0), device)


def _usable(device: torch.device) -> int:
    """Four fifths of what this process can have where `device` has its memory."""
    if device.type == "cpu":
        return usable_ram()
    # CUDA does not count as free what caches of files hold, which the system gives up for whoever needs it.
    return usable_ram(torch.cuda.memory_reserved(device)) if is_unified(device) else usable_memory(device)
