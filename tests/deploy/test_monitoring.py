"""What the dashboard and the alerts ask for, the service measures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from tests.api import serve

FOLDER = Path(__file__).parents[2] / "deploy"


def asked_for() -> set[str]:
    dashboard = json.loads((FOLDER / "grafana" / "dashboards" / "dain.json").read_text())
    groups = yaml.safe_load((FOLDER / "prometheus" / "rules.yml").read_text())["groups"]
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [rule["expr"] for group in groups for rule in group["rules"]]
    return set(re.findall(r"\bdain_\w+", " ".join(queries)))


def test_every_query_has_its_metric(settings: Settings) -> None:
    with serve(settings) as url:
        text = httpx.get(f"{url}/metrics", verify=False).text
    measured = set()
    for family in text_string_to_metric_families(text):
        kinds = {"counter": ["_total"], "histogram": ["_bucket"]}.get(family.type, [""])
        measured |= {family.name + kind for kind in kinds}
    assert len(asked_for()) > 10
    assert asked_for() <= measured
