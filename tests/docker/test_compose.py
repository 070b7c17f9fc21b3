"""The compose file starts images of ours alone, in no order, and stops in one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}

PATH = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
COMPOSE = shutil.which("podman-compose", path=PATH)


def test_no_public_registry_is_asked_for_what_is_built_here() -> None:
    assert set(OURS) == {"api", "janitor", "webhooks", "worker", "worker-cpu"}
    for name, service in OURS.items():
        assert service["image"].startswith("${DAIN_REGISTRY:-localhost}/dain-"), name
        assert service["pull_policy"] == "${DAIN_PULL_POLICY:-build}", name


def test_redis_ends_last() -> None:
    assert all(service["depends_on"] == ["redis"] for service in OURS.values())


def test_what_was_stopped_by_hand_stays_stopped() -> None:
    again = {name: service["restart"] for name, service in SERVICES.items() if name != "prepare"}
    assert set(again.values()) == {"unless-stopped"} and "restart" not in SERVICES["prepare"]


def test_a_bucket_of_env_is_never_passed_over_for_the_volume() -> None:
    """Without docker/s3.yml nothing starts, in place of a store that has none of the bucket's files."""
    urls = {service["environment"]["DAIN_STORE_URL"] for service in OURS.values()}
    assert urls == {"${DAIN_STORE_URL:-file:///var/lib/dain/store}"}


def test_every_variable_is_in_the_example_of_env() -> None:
    given = set(re.findall(r"^#?([A-Z_0-9]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_0-9]+)", TEXT))
    assert asked - given == {"DAIN_ENV_FILE"}  # which names another file than .env


def test_settings_of_ones_own_are_not_tracked() -> None:
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    listed = subprocess.run(["git", "ls-files", ".env"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout == ""


@pytest.mark.skipif(
    not COMPOSE or not shutil.which("podman"), reason="podman or podman-compose is not installed"
)
def test_compose_reads_it_with_what_goes_over_it_on_a_host_of_workers() -> None:
    files = ["--file", "docker-compose.yml", "--file", "docker/worker-host.yml"]
    profiles = [word for name in ("gpu", "cpu", "tls", "monitoring") for word in ("--profile", name)]
    variables = {
        "DAIN_REDIS_ADDRESS": "10.0.0.1:6379",
        "STORE_OPTIONS": "addr=10.0.0.1",
        "STORE_DEVICE": ":/srv/dain",
        "PATH": PATH,
    }
    command = [str(COMPOSE), *files, *profiles, "config"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["worker"]["image"] == "localhost/dain-worker:latest"
    assert services["api"]["depends_on"] and not services["worker"].get("depends_on")
    assert set(services) >= {"alertmanager", "grafana", "prometheus", "caddy", "worker-cpu"}
