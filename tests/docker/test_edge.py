"""The compose file for small machines fits the one that it goes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]


class Loader(yaml.SafeLoader):
    """Reads Compose's tags, too."""


Loader.add_constructor("!reset", lambda loader, node: None)


def read(name: str) -> Any:
    return yaml.load((ROOT / name).read_text(), Loader)


def test_it_changes_services_that_there_are_by_settings_that_there_are() -> None:
    whole, small = read("docker-compose.yml"), read("docker/edge.yml")
    assert set(small["services"]) <= set(whole["services"])
    for service in small["services"].values():
        for name in service.get("environment", {}):
            assert name.removeprefix("DAIN_").lower() in Settings.model_fields


def test_one_container_serves_and_sweeps() -> None:
    services = read("docker/edge.yml")["services"]
    assert services["api"]["command"] == ["python", "-m", "service.together"]
    assert (
        services["janitor"]["profiles"] and services["webhooks"]["profiles"]
    )  # not started unless asked for


def test_a_jetsons_worker_asks_for_no_device_and_sees_the_power_mode() -> None:
    worker = read("docker/edge.yml")["services"]["worker"]
    assert worker["runtime"] == "nvidia"
    assert worker["deploy"]["resources"]["reservations"] is None
    assert {volume.split(":")[0] for volume in worker["volumes"]} == {
        "/var/lib/nvpmodel",
        "/etc/nvpmodel.conf",
    }
