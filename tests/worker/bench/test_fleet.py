"""A fleet of workers on a real Redis, some of them killed and some stopped for a while."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fleet_loses_and_doubles_nothing_when_workers_vanish_and_come_back() -> None:
    options = {
        "workers": 9,
        "processes": 3,
        "load": 1.25,  # so that nobody is idle when the faults strike
        "seconds": 8,
        "segment-seconds": 0.5,
        "worker-ttl": 3,
        "idle-seconds": 0.5,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "worker.bench.fleet", *words, "--faults"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 jobs of 16 segments: none lost, none doubled" in done.stdout
    assert re.search(r"^[1-9]\d* tasks of stopped workers are in other hands", done.stderr, re.MULTILINE)
    repeated = re.search(r"^(\d+) attempts beyond the first$", done.stdout, re.MULTILINE)
    assert repeated and int(repeated[1]) > 0, "nobody vanished in the middle of a task"
