"""The budget that interpolators share: what is left for whom, and whose turn it is."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dain_core.network.model import DAIN, ModelConfig
from dain_core.runtime import budget as budget_module
from dain_core.runtime.backends.fused import FusedDAIN
from dain_core.runtime.backends.fused.stages import FusedStages
from dain_core.runtime.budget import Budget
from dain_core.runtime.engine import Interpolator, Pair

CPU = torch.device("cpu")


class Member:
    def __init__(self, held: int) -> None:
        self.held, self.released = held, 0

    def held_bytes(self) -> int:
        return self.held

    def release(self) -> None:
        self.released += 1


def test_a_member_may_take_what_the_others_do_not_hold() -> None:
    budget, one, two, three = Budget(1000), Member(100), Member(30), Member(7)
    for member in (one, two, three):
        budget.join(member)
    assert [budget.left(member, CPU) for member in (one, two, three)] == [963, 893, 870]
    one.held = 500
    assert budget.left(two, CPU) == 493
    del one, member
    gc.collect()
    assert budget.left(two, CPU) == 993


def test_a_gpu_shares_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process has in main memory is not there for the GPU; caches of files are."""
    gpu, member = torch.device("cuda:0"), Member(30)
    monkeypatch.setattr(budget_module, "is_unified", lambda device: True)
    monkeypatch.setattr(budget_module, "resident", lambda: 400)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(budget_module, "usable_ram", lambda beside=0: 2000 + beside)
    bounds: list[float] = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=10_000)
    )
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: bounds.append(share)
    )
    assert Budget(1000).left(member, gpu) == 600 and Budget(1000).left(member, CPU) == 1000
    assert Budget().left(member, gpu) == 1650 and Budget().left(member, CPU) == 2000
    assert Budget(300).left(member, gpu) < 0
    assert bounds == [0.06, 0.165, 0]  # nor does PyTorch keep more


def test_a_member_lets_go_when_another_works() -> None:
    budget, one, two = Budget(1000), Member(0), Member(0)
    for _ in range(3):
        with budget.turn(one):
            assert (one.released, two.released) == (0, 0)
    with budget.turn(two):
        assert (one.released, two.released) == (1, 0)
        with budget.turn(two):
            assert two.released == 0
    with budget.turn(one):
        assert (one.released, two.released) == (1, 1)


def test_members_do_not_work_at_the_same_time() -> None:
    budget, one, two = Budget(1000), Member(0), Member(0)
    done: list[str] = []

    def work() -> None:
        with budget.turn(two):
            done.append("two")

    thread = threading.Thread(target=work)
    with budget.turn(one):
        thread.start()
        thread.join(0.1)
        assert thread.is_alive() and done == []
        done.append("one")
    thread.join()
    assert done == ["one", "two"]


@torch.inference_mode()
def test_two_networks_plan_within_one_budget() -> None:
    """The second plans with what the first holds taken off, and again when the first holds more."""
    with torch.device("meta"):
        networks = [FusedDAIN(DAIN(ModelConfig.named("dain-lite")), torch.float16) for _ in range(2)]
    budget = Budget(10 * 2**30)
    one, two = (FusedStages(network, torch.device("cpu"), budget) for network in networks)
    assert budget.left(two, CPU) == 10 * 2**30 - one.held_bytes() < 10 * 2**30
    frame = one.features(torch.empty(1, 3, 64, 64, device="meta"))
    kept = sum(
        tensor.nbytes for tensor in (frame.picture, frame.inverse_depth, *frame.contexts, *frame.pyramid)
    )
    assert budget.left(two, CPU) == 10 * 2**30 - one.held_bytes()
    weights = one.held_bytes() - kept
    two.features(torch.empty(1, 3, 64, 64, device="meta"))
    assert one._plan is None and two._plan is not None
    del frame
    gc.collect()
    assert one.held_bytes() == weights


def test_frames_are_made_again_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that ask for results share the float32 twin, whose graphs serve one of them at a time."""
    engine = Interpolator.load("dain-lite", device="cpu", precision="bf16")
    engine._stages.model.rectify.stem.weight.fill_(float("inf"))
    pair = engine.pair(*(engine.frame(torch.rand(1, 3, 16, 16)) for _ in range(2)))
    pending = [engine.submit(pair, 0.5) for _ in range(4)]
    inside, most, twins = 0, 0, set()

    def between(self: Interpolator, pair: Pair, time: float) -> Tensor:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        twins.add(self)
        threading.Event().wait(0.05)
        inside -= 1
        return pair.first.image

    monkeypatch.setattr(Interpolator, "between", between)
    threads = [threading.Thread(target=frame.result) for frame in pending]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.recomputed == 4 and len(twins) == 1 and most == 1
