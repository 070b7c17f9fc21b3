"""`dain bench job` on a running service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.stack import Stack
from worker.bench.cli import bench


def test_a_job_is_held_against_the_engine(stack: Stack, tmp_path: Path) -> None:
    arguments = ["job", "--url", stack.url, "--size=64x64", "--frames=8", f"--json={tmp_path / 'job.json'}"]
    done = CliRunner().invoke(bench, arguments)
    assert done.exit_code == 0, done.output
    [result] = json.loads((tmp_path / "job.json").read_text())
    assert (result["source_frames"], result["new_frames"], result["workers"]) == (8, 7, 1)
    assert result["share"] == pytest.approx(7 / result["seconds"] / result["engine_rate"])
    assert 0 < result["device_share"] <= 1
    assert result["worker_cores"] > 0 and result["codec_cores"] > 0
    assert result["machine_cores"] >= result["worker_cores"]
