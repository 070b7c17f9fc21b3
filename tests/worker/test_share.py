"""What a worker may take of the memory of a small machine, and what is said where that is too little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dain_core.network.networks import NETWORKS
from dain_core.runtime.memory import GIB, FrameTooLargeError
from dain_core.runtime.ram import needed_bytes
from service.settings import Settings
from worker import share

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
LITE = NETWORKS["dain-lite"]

Gpu = Callable[[bool], None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Has the machine a GPU, whose memory is the machine's or its own."""

    def install(unified: bool) -> None:
        def properties(device: Any) -> Any:
            return SimpleNamespace(is_integrated=int(unified))

        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)

    return install


def settings(tmp_path: Path, **given: Any) -> Settings:
    return Settings(state_dir=tmp_path, **given)


def test_without_a_bound_a_worker_may_take_what_its_settings_say(tmp_path: Path, gpu: Gpu) -> None:
    given = settings(tmp_path, max_ram_bytes=7, max_vram_bytes=9)
    assert share.limit(settings(tmp_path), CPU) is None
    assert share.limit(given, CPU) == 7
    gpu(False)
    assert share.limit(given, GPU) == 9
    gpu(True)
    assert share.limit(given, GPU) == 7


def test_of_a_bound_a_worker_gets_what_the_others_leave(tmp_path: Path, gpu: Gpu) -> None:
    given = settings(tmp_path, memory="4GiB")
    left = share.limit(given, CPU)
    assert left is not None and 2.5 * GIB < left < 3.5 * GIB
    gpu(True)
    assert share.limit(given, GPU) == left
    gpu(False)
    assert share.limit(given, GPU) is None  # its memory is its own
    assert share.limit(settings(tmp_path, memory="4GiB", max_ram_bytes="1GiB"), CPU) == GIB


def test_the_least_that_is_named_is_enough() -> None:
    for needed in (GIB // 2, 3 * GIB, 9 * GIB):
        memory = float(share.least(needed).removesuffix("GiB")) * GIB
        assert share.share(int(memory)) >= needed > share.share(int(memory - 0.2 * GIB))


def test_what_a_bound_is_enough_for_is_said() -> None:
    said = share.room(8 * GIB, "dain-lite", LITE)
    assert said.startswith(
        "Within 8 GiB, dain-lite makes frames of up to 2560x1440 on a CPU; 3840x2160 takes"
    )
    assert share.least(needed_bytes(LITE, 2160, 3840)) in said
    assert "takes" not in share.room(999 * GIB, "dain-lite", LITE)


def test_a_bound_that_is_enough_for_nothing_is_refused() -> None:
    with pytest.raises(
        FrameTooLargeError, match=r"dain-lite makes no frames of 640x480 within 0\.5 GiB"
    ) as refused:
        share.room(GIB // 2, "dain-lite", LITE)
    assert f"the least for them is {share.least(refused.value.needed)}" in str(refused.value)


def test_a_job_that_is_too_large_learns_what_would_be_enough(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, bound = FrameTooLargeError("too large", 3 * GIB), settings(tmp_path, memory="2GiB")
    assert f"--memory {share.least(3 * GIB)}" in share.advice(error, bound, CPU)
    assert share.advice(error, settings(tmp_path), CPU) == ""
    assert share.advice(FrameTooLargeError("how much is not known"), bound, CPU) == ""
    monkeypatch.setattr(share, "resident", lambda: GIB)
    gpu(True)
    assert f"--memory {share.least(4 * GIB)}" in share.advice(error, bound, GPU)
    gpu(False)
    assert share.advice(error, bound, GPU) == ""
