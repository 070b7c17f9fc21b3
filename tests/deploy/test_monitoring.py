"""What the dashboard and the alerts ask for, the service measures; alerts fire when they should, and reach somebody."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
import trustme
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from service.jobs.names import COUNTERS, STORED
from service.jobs.workers import WorkerRecord, Workers
from service.settings import Settings
from service.up import claim_port
from tests.api import serve, until

FOLDER = Path(__file__).parents[2] / "deploy"
RULES = FOLDER / "prometheus" / "rules.yml"
CONFIGURE = FOLDER / "alertmanager" / "configure.sh"
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboards" / "dain.json").read_text())
PANELS = DASHBOARD["panels"]

# Debian's packages have them: prometheus, prometheus-alertmanager.
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
needs_amtool = pytest.mark.skipif(not shutil.which("amtool"), reason="amtool is not installed")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
needs_alertmanager = pytest.mark.skipif(not ALERTMANAGER, reason="alertmanager is not installed")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """What the dashboard asks."""
    return [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


def checked(*command: str | Path) -> str:
    """What a command prints that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_query_has_its_metric(settings: Settings) -> None:
    with serve(settings) as url:
        text = httpx.get(f"{url}/metrics", verify=False).text
    measured = set()
    for family in text_string_to_metric_families(text):
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_count"], "info": ["_info"]}
        measured |= {family.name + kind for kind in kinds.get(family.type, [""])}
    asked = set(re.findall(r"\bdain_\w+", " ".join([*queries(), *(rule["expr"] for rule in rules())])))
    assert len(asked) > 30 and asked <= measured


def test_the_page_lists_every_metric_and_every_alert(settings: Settings) -> None:
    page = (FOLDER.parent / "docs" / "observability.md").read_text()
    rows = dict(re.findall(r"^\| `(dain_\w+)` \| (?:.*) \| (.+) \|$", page, re.MULTILINE))
    with serve(settings) as url:
        httpx.get(f"{url}/healthz")
        text = httpx.get(f"{url}/metrics").text
    families = text_string_to_metric_families(text)
    known = {family.name: family.documentation for family in families if not family.name.endswith("_created")}
    assert rows == {name: text.rstrip(".") for name, text in known.items()}
    assert all(f"`{rule['alert']}`" in page for rule in rules())


def test_the_panels_do_not_cover_each_other() -> None:
    places = Counter(
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )
    assert max(places.values()) == 1 and max(x for x, _ in places) == 23
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    """It passes over others in silence."""
    register_default_plugins()
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(DASHBOARD)))  # with defaults
    assert not set(leaves(DASHBOARD)) - set(leaves(read))


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values of a document, each with its value at the end."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in inside:
        yield from leaves(value, (*path, name))
    if not isinstance(node, dict | list):
        yield *path, node


@contextmanager
def prometheus(folder: Path, scraped: str) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the API at `scraped`; its alerts fire at once."""
    rules = folder / "rules.yml"
    rules.write_text(re.sub(r"for: \d+\w", "for: 0s", RULES.read_text()))
    jobs = [{"job_name": "dain", "static_configs": [{"targets": [scraped.removeprefix("http://")]}]}]
    often = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    said = {"global": often, "rule_files": [str(rules)], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(said))
    url = f"http://127.0.0.1:{claim_port('127.0.0.1', 0)}"
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield url
        finally:
            process.terminate()


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
def test_no_panel_is_empty_where_a_gpu_works(settings: Settings, redis: Redis, tmp_path: Path) -> None:
    redis.config_set("maxmemory", 2**30)
    Workers(redis, ttl_seconds=600).heartbeat(
        WorkerRecord(
            name="ann",
            host="here",
            pid=1,
            device="cuda:0",
            device_name="NVIDIA H100",
            backend="cuda",
            model="dain",
            precision="fp16",
            ready=True,
            vram_used_bytes=5,
            vram_total_bytes=80,
            frames_per_second=12.5,
            megapixels_per_second={"dain": 3.0},
            celsius={"gpu-thermal": 83.5},
            watts=300.0,
            utilisation=0.9,
            throttled_by=["heat"],
            started_at=time.time(),
        )
    )

    redis.hset(COUNTERS, "seconds_decode", 1.5)
    redis.hset(STORED, "results", 7)

    def empty() -> set[str]:
        """The queries that find nothing."""
        found = {query: asking.get("/api/v1/query", params={"query": query}) for query in queries()}
        return {query for query, answer in found.items() if not answer.json()["data"]["result"]}

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return asking.get("/-/ready").is_success
        return False

    try:
        with serve(settings) as api, prometheus(tmp_path, api) as url, httpx.Client(base_url=url) as asking:
            until(answers)
            until(lambda: not empty())
    finally:
        redis.config_set("maxmemory", 0)


@needs_promtool
def test_prometheus_takes_its_configuration_and_the_dashboards_queries(tmp_path: Path) -> None:
    checked("promtool", "check", "config", FOLDER / "prometheus" / "prometheus.yml")
    asked = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}))
    checked("promtool", "check", "rules", tmp_path / "asked.yml")


#: Series of an hour by minutes, and the alerts that fire in the end.
TROUBLE: list[tuple[dict[str, str], set[str]]] = [
    ({'up{job="dain"}': "0x60"}, {"DainDown"}),
    ({'dain_workers{ready="true"}': "0x60"}, {"DainNoWorkerReady"}),
    ({"dain_queue_oldest_age_seconds": "1000x60"}, {"DainQueueOld"}),
    ({'dain_jobs_finished_total{outcome="failed"}': "0+1x60"}, {"DainJobsFail"}),
    ({"dain_attempts_failed_total": "0+1x60"}, {"DainAttemptsFail"}),
    ({'dain_worker_throttled{reason="heat"}': "1x60"}, {"DainThrottled"}),
    ({'dain_worker_throttled{reason="power-cap"}': "1x60"}, set()),
    ({"dain_webhooks_late_seconds": "130x60"}, {"DainWebhooksLate"}),
    ({'dain_webhook_attempts_total{outcome="given_up"}': "0+1x60"}, {"DainWebhooksGivenUp"}),
    ({"dain_store_free_bytes": "15x60", "dain_store_min_free_bytes": "10x60"}, {"DainStoreFull"}),
    ({"dain_store_free_bytes": "25x60", "dain_store_min_free_bytes": "10x60"}, set()),
    ({"dain_redis_memory_bytes": "9x60", "dain_redis_memory_limit_bytes": "10x60"}, {"DainRedisFull"}),
    ({"dain_redis_memory_bytes": "9x60", "dain_redis_memory_limit_bytes": "0x60"}, set()),
    ({"dain_replans_total": "0+1x60"}, {"DainOutOfMemory"}),
    ({"dain_recomputed_frames_total": "0+9x60", "dain_new_frames_total": "0+100x60"}, {"DainOverflows"}),
    ({"dain_recomputed_frames_total": "0+1x60", "dain_new_frames_total": "0+100x60"}, set()),
    ({'dain_http_request_duration_seconds_count{status="500"}': "0+1x60"}, {"DainErrors"}),
    (
        {
            'dain_http_request_duration_seconds_bucket{route="/jobs/{job_id}",le="1"}': "0+1x60",
            'dain_http_request_duration_seconds_bucket{route="/jobs/{job_id}",le="5"}': "0+60x60",
            'dain_http_request_duration_seconds_bucket{route="/jobs/{job_id}",le="+Inf"}': "0+60x60",
        },
        {"DainSlow"},
    ),
    ({f'dain_worker_info{{version="{number}"}}': "1x180" for number in "12"}, {"DainVersionsDiffer"}),
]


@needs_promtool
def test_alerts_fire_in_their_trouble_and_in_no_other(tmp_path: Path) -> None:
    """Each in a case of its own: promtool is told what fires, and of all others that they do not."""
    tests = []
    for series, fire in TROUBLE:
        end = "180m" if "180" in next(iter(series.values())) else "60m"
        given = [{"series": name, "values": values} for name, values in series.items()]
        names = [rule["alert"] for rule in rules()]
        count = 'count by (alertname) (ALERTS{alertstate="firing"})'
        expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names if name in fire]
        tests.append(
            {
                "interval": "1m",
                "input_series": given,
                "promql_expr_test": [{"expr": count, "eval_time": end, "exp_samples": expected}],
            }
        )
    file = tmp_path / "alerts.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    checked("promtool", "test", "rules", file)
    assert {name for _, fire in TROUBLE for name in fire} == {rule["alert"] for rule in rules()}


def configuration(**variables: str) -> str:
    """What Alertmanager is configured with where these variables are set."""
    variables = {"PATH": os.environ["PATH"], **variables}
    done = subprocess.run(["sh", CONFIGURE], env=variables, capture_output=True, text=True, check=True)
    return done.stdout


MAIL = {"ALERT_MAIL_TO": "ann@example.com", "ALERT_SMTP": "smtp.example.com:587"}
LOGIN = {"ALERT_SMTP_USER": "ann", "ALERT_SMTP_PASSWORD": 'it\'s "$a" \\ #: secret'}


@needs_amtool
@pytest.mark.parametrize(
    "variables",
    [{}, {"ALERT_WEBHOOK_URL": "https://hooks.example.com/a?b=c&d=%20"}, MAIL, MAIL | LOGIN],
    ids=["nobody", "webhook", "mail", "mail with a login"],
)
def test_alertmanager_takes_its_configuration(variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "alertmanager.yml").write_text(configuration(**variables))
    checked("amtool", "check-config", tmp_path / "alertmanager.yml")
    [receiver] = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())["receivers"]
    for name, value in variables.items():
        assert any(value in (name, *entry.values()) for kind in list(receiver.values())[1:] for entry in kind)


def test_mail_without_a_server_is_refused_in_a_sentence() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        configuration(ALERT_MAIL_TO="ann@example.com")
    assert "ALERT_SMTP: the mail server, as host:port" in refused.value.stderr


@contextmanager
def receiver() -> Iterator[tuple[str, Queue[Any]]]:
    """The URL of a webhook, and what it is sent."""
    received: Queue[Any] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def alerted(folder: Path, configuration: str, environment: dict[str, str] | None = None) -> Iterator[None]:
    """An Alertmanager that has just been told of an alert."""
    (folder / "alertmanager.yml").write_text(configuration.replace("group_wait: 30s", "group_wait: 0s"))
    url = f"http://127.0.0.1:{claim_port('127.0.0.1', 0)}"
    command = [
        str(ALERTMANAGER),
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/data",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    alert = {
        "labels": {"alertname": "DainStoreFull"},
        "annotations": {"summary": "The store has 1GiB left."},
        "startsAt": datetime.now(UTC).isoformat(),
    }

    def takes_it() -> bool:
        with suppress(httpx.TransportError):
            return httpx.post(f"{url}/api/v2/alerts", json=[alert]).is_success
        return False

    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stderr=log, env={**os.environ, **(environment or {})}) as process,
    ):
        try:
            until(takes_it)
            yield
        finally:
            process.terminate()


@needs_alertmanager
def test_an_alert_reaches_the_webhook(tmp_path: Path) -> None:
    with (
        receiver() as (hook, received),
        alerted(tmp_path, configuration(ALERT_WEBHOOK_URL=hook)),
    ):
        [told] = received.get(timeout=60)["alerts"]
    assert told["labels"]["alertname"] == "DainStoreFull" and told["status"] == "firing"


@contextmanager
def mail_server(**options: Any) -> Iterator[tuple[str, Queue[Envelope]]]:
    """The address of a mail server, and what it is sent."""
    received: Queue[Envelope] = Queue()

    class Handler:
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
            received.put(envelope)
            return "250 Message accepted for delivery"

    server = Controller(Handler(), "127.0.0.1", claim_port("127.0.0.1", 0), **options)
    server.start()
    try:
        yield f"127.0.0.1:{server.port}", received
    finally:
        server.stop()


@needs_alertmanager
def test_an_alert_comes_by_mail_over_tls_to_whoever_logs_in(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def knows(
        server: SMTP, session: Session, envelope: Envelope, kind: str, login: LoginPassword
    ) -> AuthResult:
        given = {"ALERT_SMTP_USER": login.login.decode(), "ALERT_SMTP_PASSWORD": login.password.decode()}
        return AuthResult(success=given == LOGIN)

    asks = {"auth_required": True, "auth_exclude_mechanism": ["LOGIN"]}  # whose words here are none Go knows
    with mail_server(tls_context=context, authenticator=knows, **asks) as (address, received):
        sender = {"ALERT_MAIL_FROM": "dain@example.com", "ALERT_SMTP": address}
        said = configuration(**MAIL | LOGIN | sender)
        with alerted(tmp_path, said, {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}):
            envelope = received.get(timeout=60)
    assert (envelope.mail_from, envelope.rcpt_tos) == ("dain@example.com", ["ann@example.com"])
    message = message_from_bytes(envelope.content, policy=default)
    assert "FIRING:1" in message["Subject"] and "DainStoreFull" in message["Subject"]
    assert "The store has 1GiB left." in message.get_body(("html",)).get_content()


@needs_alertmanager
def test_a_mail_server_without_tls_is_used_where_that_is_allowed(tmp_path: Path) -> None:
    with mail_server() as (address, received):
        said = configuration(**MAIL | {"ALERT_SMTP": address}, ALERT_SMTP_REQUIRE_TLS="false")
        with alerted(tmp_path, said):
            assert received.get(timeout=60).mail_from == "ann@example.com"
