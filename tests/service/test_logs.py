"""What the service writes into its logs: nothing that a URL may keep secret."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from service.up import claim_port
from tests.api import assert_problem, until
from tests.receiver import SECRET


@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_query_is_in_the_log(settings: Settings, tmp_path: Path, level: str) -> None:
    url = f"http://127.0.0.1:{claim_port('127.0.0.1', 0)}"
    environment = os.environ | {
        "DAIN_REDIS_URL": settings.require_redis_url,
        "DAIN_STATE_DIR": str(settings.state_dir),
        "DAIN_PORT": url.rpartition(":")[2],
        "DAIN_LOG_LEVEL": level,
        "DAIN_EGRESS_ALLOW": "127.0.0.1",
        "DAIN_WEBHOOK_SECRET": SECRET,
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
            fetched = httpx.post(f"{url}/jobs", json={"source_url": source})
            assert "answered 404" in assert_problem(fetched, 502, "source-unreachable")["detail"]
            webhook = {"webhook_url": "https://10.0.0.1/?token=s3cret", "metadata": '{"a": "s3cret"}'}
            sent = httpx.post(f"{url}/jobs", params=webhook, content=b"x")
            assert_problem(sent, 422, "webhook-refused")
        finally:
            api.terminate()
    said = log.read_text()
    assert "GET /no-video HTTP/1.1" in said and "POST /jobs HTTP/1.1" in said
    assert "s3cret" not in said
