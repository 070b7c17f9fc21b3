"""The API answers under every name by which containers, pods and proxies call it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import yaml

from service.settings import Settings
from tests.api import serve

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"


def assert_answers(settings: Settings, host: str, allowed_hosts: str, names: list[str]) -> None:
    """Serves with the settings of a deployment, and asks under each of `names`."""
    given = Settings(host=host, allowed_hosts=allowed_hosts).model_dump(include={"host", "allowed_hosts"})
    with serve(settings.model_copy(update=given)) as url:
        for name in names:
            response = httpx.get(f"{url}/healthz", headers={"Host": name}, verify=False)
            assert response.status_code == 200, name


def test_in_compose(settings: Settings) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    environment = compose["services"]["api"]["environment"]
    allowed = re.sub(r"\$\{\w+:-\}", "dain.example.com", environment["DAIN_ALLOWED_HOSTS"])
    scrapes = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    targets = [name for scrape in scrapes for part in scrape["static_configs"] for name in part["targets"]]
    assert {target.partition(":")[2] for target in targets} == {environment["DAIN_METRICS_PORT"]}
    health_check = "127.0.0.1:8000"
    assert health_check in (ROOT / "docker" / "Dockerfile").read_text() and targets
    assert_answers(
        settings,
        environment["DAIN_HOST"],
        allowed,
        [*targets, health_check, "localhost:8000", "dain.example.com"],
    )


def test_in_kubernetes(settings: Settings) -> None:
    data = yaml.safe_load((KUBERNETES / "base" / "settings.yaml").read_text())["data"]
    ingress = yaml.safe_load((KUBERNETES / "components" / "ingress" / "ingress.yaml").read_text())
    hosts = [rule["host"] for rule in ingress["spec"]["rules"]]
    service = ["dain-api:8000", "dain-api.dain:8000", "dain-api.dain.svc.cluster.local:8000"]
    probe = "10.244.1.17:8000"  # the kubelet calls a pod by its address
    assert_answers(settings, data["DAIN_HOST"], data["DAIN_ALLOWED_HOSTS"], [*hosts, *service, probe])
