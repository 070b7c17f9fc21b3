"""What a container's settings become before its program starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "docker" / "entrypoint.sh"


def setting(name: str, **environment: str) -> str:
    command = ["sh", str(ENTRYPOINT), "sh", "-c", f'echo "${{{name}:-}}"']
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("publish", "domain", "opened"),
    [
        ("127.0.0.1:8000", "", "true"),
        ("127.0.0.1:8001", "", "true"),
        ("localhost:8000", "", "true"),
        ("[::1]:8000", "", "true"),
        ("0.0.0.0:8000", "", ""),
        ("8000", "", ""),
        ("10.0.0.1:8000", "", ""),
        ("", "", ""),
        ("127.0.0.1:8000", "dain.example.com", ""),
    ],
)
def test_the_api_is_open_without_keys_where_this_machine_alone_reaches_it(
    publish: str, domain: str, opened: str
) -> None:
    assert setting("DAIN_OPEN", DAIN_PUBLISH=publish, DAIN_DOMAIN=domain) == opened
    assert setting("DAIN_OPEN", DAIN_PUBLISH=publish, DAIN_DOMAIN=domain, DAIN_OPEN="false") == "false"


def test_redis_is_reached_by_the_password_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret")
    given = {"DAIN_REDIS_PASSWORD_FILE": str(tmp_path / "password")}
    assert setting("DAIN_REDIS_URL", **given) == "redis://:s3cret@redis:6379/0"


def test_who_waits_for_the_password_says_for_what(tmp_path: Path) -> None:
    password, sleep = tmp_path / "password", tmp_path / "sleep"
    sleep.write_text(f"#!/bin/sh\necho s3cret >{password}\n")  # it is there at the second look
    sleep.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DAIN_REDIS_PASSWORD_FILE": str(password)}
    command = ["sh", str(ENTRYPOINT), "true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"Waiting for {password}" in done.stderr
