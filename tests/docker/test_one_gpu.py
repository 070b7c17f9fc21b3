"""A worker's container takes a GPU that no other has. The locks and processes are real; only nvidia-smi is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "one_gpu.py"
HOLD = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a container on a machine with two GPUs."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    smi.chmod(0o755)
    path = f"{smi.parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "DAIN_GPU_LOCKS": str(tmp_path / "locks")}


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(machine: dict[str, str], started: list[subprocess.Popen[str]]) -> tuple[subprocess.Popen[str], str]:
    """A worker, and the first line it prints."""
    command = [sys.executable, str(SCRIPT), sys.executable, "-c", HOLD]
    process = subprocess.Popen(command, env=machine, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_each_worker_has_a_gpu_of_its_own_and_one_too_many_takes_over(
    machine: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    first, gpu = start(machine, started)
    _, other = start(machine, started)
    assert {gpu, other} == {"GPU-a", "GPU-b"}
    third, said = start(machine, started)
    assert said.startswith("Each of the 2 GPUs has its worker")
    first.send_signal(signal.SIGKILL)
    assert third.stdout and third.stdout.readline().strip() == gpu


def test_a_child_that_outlives_its_worker_does_not_keep_the_gpu(
    machine: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    child = "import subprocess, sys; subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)"
    command = [sys.executable, str(SCRIPT), sys.executable, "-c", child]
    subprocess.run(command, env=machine, check=True, timeout=60)
    assert start(machine, started)[1] == "GPU-a"


def test_a_waiting_worker_stops_when_told(
    machine: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    for _ in range(2):
        start(machine, started)
    third, _ = start(machine, started)
    third.terminate()
    assert third.wait(timeout=60) == -signal.SIGTERM


def test_no_gpu_is_an_error_that_says_what_to_do(machine: dict[str, str]) -> None:
    (Path(machine["PATH"].partition(":")[0]) / "nvidia-smi").unlink()
    machine["PATH"] = machine["PATH"].partition(":")[0]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "true"], env=machine, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "--profile cpu" in done.stderr
