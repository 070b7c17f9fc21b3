"""The script of docs/events.md that waits for a job."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "events.md"

ANSWERS: list[tuple[int, str] | None] = [
    (200, '{"id":"ID","status":"queued"}'),
    (503, '{"type":"urn:dain:problem:redis-unavailable","status":503}'),
    (429, '{"type":"urn:dain:problem:rate-limited","status":429}'),
    None,  # the service is killed
    (200, '{"id":"ID","status":"running"}'),
]


@pytest.fixture
def answers() -> list[tuple[int, str] | None]:
    return []


@pytest.fixture
def unsteady(answers: list[tuple[int, str] | None]) -> Iterator[str]:
    """The URL of a service that gives each of `answers` once; None closes the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if answer := answers.pop(0):
                status, body = answer
                self.send_response(status)
                self.send_header("Retry-After", "1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "end",
    [
        (200, '{"id":"ID","status":"succeeded"}'),
        (404, '{"type":"urn:dain:problem:job-not-found","status":404}'),
    ],
)
def test_it_waits_for_the_end_whatever_the_service_answers_meanwhile(
    end: tuple[int, str], answers: list[tuple[int, str] | None], unsteady: str, tmp_path: Path
) -> None:
    [script] = re.findall(r"^    (?:until|while) curl.*?done$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    answers += [*ANSWERS, end]
    subprocess.run(
        ["sh", "-ec", script],
        cwd=tmp_path,
        env=os.environ | {"DAIN_URL": unsteady, "no_proxy": "*"},
        check=True,
        timeout=60,
    )
    assert answers == [] and (tmp_path / "job.json").read_text() == end[1]
