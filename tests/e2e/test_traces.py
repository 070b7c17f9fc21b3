"""A trace leads from a request through the tasks of its job, whichever processes they run in."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from service.up import claim_port
from tests.api import until

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
collector_pb = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

ROOT = Path(__file__).parents[2]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """The endpoint of an OTLP collector, and the requests that it has received."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            received.append(collector_pb.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def spans(received: list[Any]) -> list[dict[str, Any]]:
    """Every span with its attributes, and what sent it."""

    def values(attributes: Any) -> dict[str, Any]:
        return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}

    return [
        {
            "part": values(resource.resource.attributes)["service.name"],
            "name": span.name,
            "trace": span.trace_id.hex(),
            "id": span.span_id.hex(),
            "parent": span.parent_span_id.hex(),
            "failed": span.status.code == 2,
            **values(span.attributes),
        }
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_a_trace_leads_from_the_request_to_the_result(settings: Settings, clip: Path) -> None:
    url = f"http://127.0.0.1:{claim_port('127.0.0.1', 0)}"
    with ExitStack() as stack:
        endpoint, received = stack.enter_context(collector())
        environment = os.environ | {
            "DAIN_REDIS_URL": settings.require_redis_url,
            "DAIN_STATE_DIR": str(settings.state_dir),
            "DAIN_PORT": url.rpartition(":")[2],
            "DAIN_MIN_FREE_BYTES": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "no_proxy": "*",
        }
        processes = []
        for command in (["service.api.app"], ["tests.worker.standing_worker", "nothing"]):
            process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment)
            stack.enter_context(process)
            stack.callback(process.terminate)
            processes.append(process)

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{url}/healthz").is_success
            return False

        until(answers)
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "order-7"}
        taken = httpx.post(
            f"{url}/jobs?reference=s3cret", content=clip.read_bytes(), headers=headers, timeout=60
        )
        assert taken.status_code == 202, taken.text
        job_url = f"{url}/jobs/{taken.json()['id']}"
        until(lambda: httpx.get(job_url, params={"wait": 5}, timeout=30).json()["status"] == "succeeded")
        for process in processes:
            process.terminate()  # which sends what is left
        assert [process.wait(60) for process in processes] == [0, 0]

    assert "s3cret" not in str(received)
    assert "GET /healthz" not in {span["name"] for span in spans(received)}  # probes would hide the rest
    trace = [span for span in spans(received) if span["trace"] == TRACE]
    [posted] = [span for span in trace if span["parent"] == CALLER]
    others = [span for span in trace if span is not posted]
    assert (posted["name"], posted["part"]) == ("POST /jobs", "dain-api")
    assert posted["http.response.status_code"] == 202 and posted["dain.request_id"] == "order-7"
    assert {span["name"] for span in others} == {"plan", "segment", "assemble"}
    for span in others:
        assert (span["part"], span["parent"], span["failed"]) == ("dain-worker", posted["id"], False)
        assert span["dain.job"] in job_url and span["dain.request_id"] == "order-7"
    assert sum(span["dain.frames"] for span in others if span["name"] == "segment") == 24


def test_nothing_of_opentelemetry_is_imported_without_an_endpoint() -> None:
    code = (
        "import sys; from service import traces; traces.start('api')\n"
        "with traces.span('x') as span: span.set(a=1); span.name('y'); assert traces.traceparent() is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_a_missing_package_is_said_and_ends_nothing() -> None:
    code = (
        "import sys, logging; logging.basicConfig()\n"
        "sys.modules['opentelemetry.sdk.resources'] = sys.modules['opentelemetry.sdk'] = None\n"
        "from service import traces; traces.start('api')\n"
        "with traces.span('x'): pass"
    )
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert "No traces are sent" in done.stderr and "Install dain-service[otel]" in done.stderr
