"""Traces for OpenTelemetry: a request to the API, the job's tasks wherever they run, and messages to its webhook.

They are sent where `OTEL_EXPORTER_OTLP_ENDPOINT` says, by OTLP over HTTP, and need the extra `otel`. Without that
variable nothing is imported here. docs/observability.md lists spans and attributes.

    traces.start("worker")
    with traces.span("segment", parent=job.origin.traceparent) as span:
        span.set(frames=96)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service import __version__

log = logging.getLogger("dain.traces")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer: Any = None  # of OpenTelemetry, once `start` has found where to send


class Span:
    """A span of a trace, or what stands for one where there are no traces."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def name(self, name: str) -> None:
        """Call it `name`, which may be known late."""
        if self._span is not None:
            self._span.update_name(name)

    def set(self, **attributes: str | float | None) -> None:
        """Give it attributes, whose names get the prefix `dain.`; what is None is left out."""
        self.set_standard({f"dain.{name}": value for name, value in attributes.items()})

    def set_standard(self, attributes: dict[str, str | float | None]) -> None:
        """Give it attributes whose names OpenTelemetry's conventions have."""
        if self._span is not None:
            self._span.set_attributes(
                {name: value for name, value in attributes.items() if value is not None}
            )


def start(part: str) -> None:
    """Have this process send traces where there is an endpoint; it is the `part` "api", "worker" … of the service."""
    global _tracer
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        log.error("No traces are sent: %s is not installed. Install dain-service[otel].", error.name)
        return
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"dain-{part}"}
    provider = TracerProvider(resource=Resource.create(named | {"service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("dain", __version__)


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    kind: str = "INTERNAL",
    expected: tuple[type[Exception], ...] = (),
) -> Iterator[Span]:
    """A span while the context lasts; an error that leaves it makes it a failed one, unless it is `expected`.

    Args:
        parent: the W3C `traceparent` of what it belongs to; None: the span that is open here, if any.
        kind: INTERNAL, SERVER, CLIENT or CONSUMER.
    """
    if _tracer is None:
        yield Span()
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    started = _tracer.start_as_current_span(
        name, context, kind=SpanKind[kind], record_exception=False, set_status_on_exception=False
    )
    with started as opened:
        try:
            yield Span(opened)
        except expected:
            raise
        except Exception as error:
            _fail(opened, error)
            raise


def _fail(span: Any, error: Exception) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))


def traceparent() -> str | None:
    """The W3C `traceparent` of the span that is open here; None where there is none."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def trace_id() -> str | None:
    """The id of the trace that is open here, as logs show it; None where there is none."""
    parent = traceparent()
    return parent and parent.split("-")[1]
