"""Some faults at once, on the whole service. `make faults` plays them all, round after round."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHOSEN = r"kill -9 (worker|api|redis) in segment|link to Redis cut in assemble"


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_nothing_is_lost_where_everything_fails_at_once() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.faults",
        "--seed=1",
        "--rounds=1",
        "--faults=4",
        f"--select={CHOSEN}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
