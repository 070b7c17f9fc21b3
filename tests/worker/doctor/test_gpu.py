"""Each check of the GPU, where it finds fault. No GPU is needed: the facts about it are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_ext import build
from service.doctor.findings import Level
from worker.doctor import gpu
from worker.doctor.gpu import Driver, Gpu

GIB = 2**30
H200 = Gpu("NVIDIA H200", (9, 0), 141 * GIB, 139 * GIB, 227 * 1024)
DRIVER = Driver("570.86", (12, 8), ["NVIDIA H200"])


@pytest.mark.parametrize(
    ("gpus", "driver", "in_a_slot", "level", "expected"),
    [
        ([H200], DRIVER, True, Level.OK, "compute capability 9.0, 141 GiB"),
        ([H200._replace(free=GIB)], DRIVER, True, Level.WARNING, "only 1.0 GiB are free"),
        ([H200._replace(capability=(6, 1))], DRIVER, True, Level.ERROR, "older than the kernels"),
        ([], DRIVER, True, Level.ERROR, "PyTorch cannot use NVIDIA H200"),
        ([], None, True, Level.ERROR, "no driver for it"),
        ([], None, False, Level.WARNING, "There is no NVIDIA GPU"),
    ],
)
def test_a_gpu(gpus: list[Gpu], driver: Driver | None, in_a_slot: bool, level: Level, expected: str) -> None:
    (found,) = gpu.judge_gpu(gpus, driver, in_a_slot)
    assert found.level is level and expected in found.says and bool(found.fix) is (level is not Level.OK)


def test_a_gpu_in_a_slot_is_seen_without_a_driver(tmp_path: Path) -> None:
    for slot, vendor, kind in (("0", "0x8086", "0x030000"), ("1", "0x10de", "0x0c0330")):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "vendor").write_text(vendor)
        (tmp_path / slot / "class").write_text(kind)
    assert not gpu.is_nvidia_in_a_slot(tmp_path)
    (tmp_path / "1" / "class").write_text("0x030200\n")
    assert gpu.is_nvidia_in_a_slot(tmp_path)


@pytest.mark.parametrize(
    ("driver", "cuda", "available", "level", "expected"),
    [
        (None, None, False, Level.OK, "There is no NVIDIA driver"),
        (DRIVER, "12.8", True, Level.OK, "suits PyTorch"),
        (DRIVER, None, False, Level.ERROR, "a build for CPUs"),
        (DRIVER, "13.0", False, Level.ERROR, "CUDA up to 12.8, and PyTorch is built for 13.0"),
        (DRIVER, "12.8", False, Level.ERROR, "it sees no GPU: unknown error"),
    ],
)
def test_a_driver(
    driver: Driver | None, cuda: str | None, available: bool, level: Level, expected: str
) -> None:
    (found,) = gpu.judge_driver(driver, cuda, available, "unknown error")
    assert found.level is level and expected in found.says and bool(found.fix) is (level is not Level.OK)


@pytest.mark.parametrize(
    ("name", "capability", "level", "expected"),
    [
        ("NVIDIA H200", (9, 0), Level.OK, "fp16, bf16, fp8"),
        ("NVIDIA GeForce RTX 2080", (7, 5), Level.OK, "for fp16."),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), Level.WARNING, "no tensor cores"),
    ],
)
def test_tensor_cores(name: str, capability: tuple[int, int], level: Level, expected: str) -> None:
    (found,) = gpu.judge_tensor_cores([H200._replace(name=name, capability=capability)])
    assert found.level is level and expected in found.says


@pytest.mark.parametrize(
    ("capability", "archs", "level", "expected"),
    [
        ((9, 0), "7.5 9.0", Level.OK, "built for 7.5, 9.0"),
        ((8, 9), "8.0", Level.OK, "built for 8.0"),  # of the same generation
        ((12, 1), "9.0 10.0+PTX", Level.OK, "built for"),  # compiled when it is loaded
        ((12, 0), "9.0 9.0a", Level.ERROR, "is 12.0"),
        ((8, 0), "8.6", Level.ERROR, "is 8.0"),
        ((9, 0), "", Level.WARNING, "not known for which"),
        ((9, 0), None, Level.ERROR, "are not built, so the GPU is not used"),
    ],
)
def test_kernels(capability: tuple[int, int], archs: str | None, level: Level, expected: str) -> None:
    (found,) = gpu.judge_kernels(
        [H200._replace(capability=capability)], archs if archs is None else archs.split()
    )
    assert found.level is level and expected in found.says
    assert level is Level.OK or "python -m cuda_ext.build" in found.fix


def test_what_kernels_are_built_for_is_written_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "nvcc", lambda: "nvcc")
    monkeypatch.setattr(build, "require_cuda_torch", lambda: None)
    monkeypatch.setattr(build, "compile_sources", lambda archs, folder: ([], ""))
    monkeypatch.setattr(
        build, "run", lambda command: Path(command[command.index("-o") + 1]).write_text("linked")
    )
    build.build(tmp_path / "_C.so", iter(["8.6", "9.0+PTX"]))
    assert (tmp_path / "_C.so").read_text() == "linked"
    assert (tmp_path / "_C.archs").read_text() == "8.6 9.0+PTX"


def test_shared_memory() -> None:
    (good,), (bad,) = (gpu.judge_shared_memory([H200._replace(shared=kib * 1024)]) for kib in (64, 48))
    assert good.level is Level.OK and "64 KiB" in good.says
    assert bad.level is Level.ERROR and "the kernels need 64" in bad.says


def test_throttling() -> None:
    (found,) = gpu.judge_throttling("cuda:0", ["heat", "power-cap"])
    assert found.level is Level.WARNING and "for heat, power-cap" in found.says
