"""A fleet of workers on a real Redis, some of them killed and some stopped for a while."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_fleet_loses_and_doubles_nothing_when_workers_vanish_and_come_back() -> None:
    options = {
        "workers": 9,
        "processes": 3,
        "load": 0.7,
        "seconds": 25,
        "segment-seconds": 1,
        "worker-ttl": 3,
        "idle-seconds": 1,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "worker.bench.fleet", *words, "--faults"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 jobs of 16 segments: none lost, none doubled" in done.stdout
    assert re.search(r"^[1-9]\d* tasks of stopped workers are in other hands", done.stderr, re.MULTILINE)
    repeated = re.search(r"^(\d+) attempts beyond the first$", done.stdout, re.MULTILINE)
    assert repeated and int(repeated[1]) > 0, "nobody vanished in the middle of a task"
