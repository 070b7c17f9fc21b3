"""`dain bench load`, for a second."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from service.up import claim_port
from worker.bench.load import Answers, load


def test_answers_of_each_kind_are_told(clip: Path) -> None:
    port = claim_port("127.0.0.1", 0)
    chosen = ["--clients=2", "--polls=40", "--mib=0.1", "--seconds=1.5", f"--port={port}"]
    done = CliRunner().invoke(load, [str(clip), *chosen])
    assert done.exit_code == 0, done.output
    for name in ("POST /jobs", "GET /jobs/ID", "GET /healthz"):
        assert re.search(rf"^{name} +[1-9]\d*\.\d/s .* p99 .* other statuses: none$", done.output, re.M)
    assert "cores in use: API and probers 0." in done.output or "API and probers 1." in done.output


def test_quantiles() -> None:
    answers = Answers(seconds=[0.001 * number for number in range(1, 1000)], others={429: 2})
    line = answers.describe("POST", during=10.0)
    assert [int(n) for n in re.findall(r"p50 +(\d+) .* p99 +(\d+) .* most +(\d+)", line)[0]] == [
        500,
        990,
        999,
    ]
    assert "99.9/s" in line and "{429: 2}" in line
    assert "too few" in Answers().describe("POST", during=1.0)
