"""HTTPS in front of the API: Caddy itself, with the configuration that compose gives it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from service.client import Client
from service.jobs.keys import Key, open_keys
from service.settings import Settings
from service.up import claim_port
from tests.api import serve, until

ROOT = Path(__file__).parents[2]
CADDY = Path(sys.executable).with_name("caddy")


@pytest.fixture
def https(settings: Settings, tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The service's URL behind Caddy, and what trusts its certificate. Ports and addresses alone are the test's own."""
    environment = {
        **os.environ,
        "DAIN_DOMAIN": "localhost",
        "XDG_DATA_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    command = [str(CADDY), "adapt", "--adapter", "caddyfile", "--config", str(ROOT / "docker" / "Caddyfile")]
    adapted = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    port = claim_port("127.0.0.1", 0)
    with serve(settings) as api:
        config = json.loads(adapted.replace(b"api:8000", api.removeprefix("http://").encode()))
        config["apps"]["http"] |= {"http_port": claim_port("127.0.0.1", 0), "https_port": port}
        config["apps"]["http"]["servers"]["srv0"]["listen"] = [f"127.0.0.1:{port}"]
        # A container's root is read-only, and this machine's trust is no business of the test.
        assert config["apps"]["pki"]["certificate_authorities"]["local"]["install_trust"] is False
        (tmp_path / "caddy.json").write_text(json.dumps(config))
        with subprocess.Popen(
            [str(CADDY), "run", "--config", str(tmp_path / "caddy.json")],
            env=environment,
            stderr=subprocess.DEVNULL,
        ) as caddy:
            root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
            until(root.exists)
            trust = ssl.create_default_context(cafile=str(root))
            until(lambda: answers(f"https://localhost:{port}", trust))
            yield f"https://localhost:{port}", trust
            caddy.terminate()


def answers(url: str, trust: ssl.SSLContext) -> bool:
    try:
        return httpx.get(f"{url}/healthz", verify=trust).is_success
    except httpx.TransportError:
        return False


def test_a_client_with_a_key_gets_through_and_nobody_else(
    https: tuple[str, ssl.SSLContext],
    settings: Settings,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    url, trust = https
    key, token = Key.new("ann", ["submit", "read"])
    open_keys(settings).put(key)
    until(lambda: httpx.get(f"{url}/jobs", verify=trust).status_code == 401)
    monkeypatch.setenv(
        "SSL_CERT_FILE", str(tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt")
    )
    with Client(url, token=token) as client:
        job = client.submit(clip)
        assert [listed.id for listed in client.jobs()] == [job.id]
    page = httpx.get(f"{url}/docs", verify=trust).text
    assert f"{url}/jobs" in page and "http://" not in page  # no example sends a key in the clear
    assert not list(tmp_path.rglob("autosave.json"))  # a container's root is read-only: it would log an error


def test_compose_starts_it_in_a_profile_of_its_own_and_wants_a_name(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    caddy, api = compose["services"]["caddy"], compose["services"]["api"]
    assert caddy["profiles"] == ["tls"]
    assert (
        set(caddy["networks"]) & set(api["networks"])
        and f"api:{api['environment']['DAIN_PORT']}" in (ROOT / "docker" / "Caddyfile").read_text()
    )
    assert "./docker/Caddyfile:/etc/caddy/Caddyfile:ro" in caddy["volumes"]
    assert "${DAIN_DOMAIN:-}" in api["environment"]["DAIN_ALLOWED_HOSTS"].split(",")
    shell, flags, script = caddy["command"]
    (tmp_path / "caddy").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "caddy").chmod(0o755)
    for domain, status in (("", 1), ("dain.example.com", 0)):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DAIN_DOMAIN": domain}
        done = subprocess.run(
            [shell, flags, script.replace("$$", "$")], env=environment, capture_output=True, text=True
        )
        assert done.returncode == status
        assert ("DAIN_DOMAIN" in done.stderr) if status else ("/etc/caddy/Caddyfile" in done.stdout)
