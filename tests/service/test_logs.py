"""What the service writes into its logs: one line an event, and nothing that is secret."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.logs import bound, get_logger, hide, in_words, log_to_stderr
from service.settings import Settings
from service.up import claim_port
from tests.api import assert_problem, until
from tests.receiver import SECRET

TOKEN = f"dain_{'t0ken' * 8}"


def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves logging as it is where nothing has set it up; what the test sets up does not outlast it."""
    monkeypatch.setattr(logging.root, "handlers", [])
    for name in ("", "httpx", "rq.worker"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.getLogger(name).level)


def test_each_line_is_an_event_and_none_has_a_secret(settings: Settings, clip: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{claim_port('127.0.0.1', 0)}"
    environment = os.environ | {
        "DAIN_REDIS_URL": settings.require_redis_url,
        "DAIN_STATE_DIR": str(settings.state_dir),
        "DAIN_PORT": url.rpartition(":")[2],
        "DAIN_LOG_LEVEL": "debug",
        "DAIN_EGRESS_ALLOW": "127.0.0.1",
        "DAIN_WEBHOOK_SECRET": SECRET,
        "DAIN_MAX_UPLOD_BYTES": "s3cret",
    }
    secret = {"X-Amz-Signature": "s3cret"}

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/healthz", params=secret).is_success
        return False

    log = tmp_path / "log"
    command = [sys.executable, "-m", "service.api.app"]
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stderr=output) as api:
        try:
            until(answers)
            source = str(httpx.URL(f"{url}/no-video", params=secret))  # the service has no such page itself
            fetched = httpx.post(f"{url}/jobs", json={"source_url": source}, timeout=60)
            assert "answered 404" in assert_problem(fetched, 502, "source-unreachable")["detail"]
            webhook = {"webhook_url": "https://10.0.0.1/?token=s3cret", "metadata": '{"a": "s3cret"}'}
            sent = httpx.post(f"{url}/jobs", params=webhook, content=b"x", timeout=60)
            assert_problem(sent, 422, "webhook-refused")
            named = {"X-Request-ID": "order-7", "Authorization": f"Bearer {TOKEN}"}
            taken = httpx.post(
                f"{url}/jobs?reference=r1", content=clip.read_bytes(), headers=named, timeout=60
            )
            assert (taken.status_code, taken.headers["X-Request-ID"]) == (202, "order-7")
            httpx.delete(f"{url}/jobs/{taken.json()['id']}", headers={"X-Request-ID": "not one!"})
        finally:
            api.terminate()
    said = log.read_text()
    assert "s3cret" not in said and TOKEN not in said and SECRET not in said

    lines = [json.loads(line) for line in said.splitlines()]
    assert all({"timestamp", "level", "logger", "event"} <= line.keys() for line in lines)
    [unknown] = [line for line in lines if line["logger"] == "dain.settings"]
    assert unknown["event"].endswith("Did you mean DAIN_MAX_UPLOAD_BYTES?")
    assert {"uvicorn.error"} <= {line["logger"] for line in lines}

    def events(name: str) -> list[dict[str, Any]]:
        return [line for line in lines if line["event"] == name]

    assert ("GET", "/no-video", 404) in [
        (line["method"], line["path"], line["status"]) for line in events("request")
    ]
    assert all(line["request_id"] for line in events("request"))
    refused = [(line["status"], line["problem"]) for line in events("request") if "problem" in line]
    assert refused == [(502, "source-unreachable"), (422, "webhook-refused")]
    [accepted], [ended] = events("job accepted"), events("job ended")
    about = {"job": taken.json()["id"], "owner": "default", "name": "video", "reference": "r1"}
    assert accepted.items() >= (about | {"request_id": "order-7"}).items()
    assert ended.items() >= (about | {"outcome": "cancelled", "request_id": "order-7"}).items()
    assert ended["frames"] == 0 and ended["seconds"] >= 0
    cancelled = [line for line in events("request") if line["method"] == "DELETE"]
    assert len(cancelled[0]["request_id"]) == 32


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://a.example/v.mp4?sig=x&b=c failed", "GET https://a.example/v.mp4?*** failed"),
        ("retries of url: /a/b?X-Amz-Signature=x (refused)", "retries of url: /a/b?*** (refused)"),
        ("redis://:pass@host:6379/0 is away", "redis://***@host:6379/0 is away"),
        (f"the token {TOKEN} is unknown", "the token dain_*** is unknown"),
        (f"signed with {SECRET}", "signed with whsec_***"),
        ("dain_core.runtime is no secret", "dain_core.runtime is no secret"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert hide(text) == shown


@pytest.mark.parametrize("form", ["json", "auto", "console"])
def test_lines_of_libraries_have_the_form_of_ours(
    form: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_in_a_new_process(monkeypatch)
    log_to_stderr(Settings(log_format=form))
    with bound(job="j1"):
        logging.getLogger("library").warning("it is %s", "redis://:pass@host")
        get_logger("ours").info("job begun", frames=None, seconds=1.5)
        try:
            raise ValueError("s3://bucket?key=s3cret")
        except ValueError:
            get_logger("ours").error("it failed", exc_info=True)
    logging.getLogger("httpx").info("GET https://a.example/?s3cret")
    logging.getLogger("rq.worker").info("Job OK")
    said = capsys.readouterr().err
    assert "pass" not in said and "s3cret" not in said and "Job OK" not in said
    if form == "console":
        assert "job begun" in said and "seconds=1.5" in said and "frames" not in said and "Traceback" in said
        return
    library, ours, failed = map(json.loads, said.splitlines())
    assert library.items() >= {"event": "it is redis://***@host", "level": "warning", "job": "j1"}.items()
    assert ours.items() >= {"event": "job begun", "logger": "ours", "job": "j1", "seconds": 1.5}.items()
    assert "frames" not in ours and "ValueError" in failed["exception"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"event": "it failed", "exception": "Traceback\\nValueError: no"}\n', "it failed: ValueError: no"),
        ('{"event": "Redis does not answer", "error": "refused"}', "Redis does not answer: refused"),
        ("Error: of another program\n", "Error: of another program"),
        ('"a text"', '"a text"'),
    ],
)
def test_a_line_can_be_said_in_words(line: str, words: str) -> None:
    assert in_words(line) == words
