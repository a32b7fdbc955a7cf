"""Tracing by OpenTelemetry. Imported only if it is switched on.

FastAPI makes a span for each request itself, once it has a provider; those of statements are made
here. Where spans go, and how many, is said by OpenTelemetry's own variables, `OTEL_*`.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

from ..db.sessions import Sessions
from ..settings import ChassisSettings

_SPANS = "chassis_spans"


class Tracing:
    """The spans of an application; `provider` takes more processors."""

    def __init__(self, package: str) -> None:
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: package}
        self.provider = TracerProvider(resource=Resource.create(named))
        self.provider.add_span_processor(_QueryMasker())
        if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
            self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    @property
    def fastapi_telemetry(self) -> TelemetryConfig:
        """FastAPI's own option for spans of requests, and nothing else."""
        return {
            "tracer_provider": self.provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        }

    @asynccontextmanager
    async def instrument(
        self, sessions: Sessions, settings: ChassisSettings
    ) -> AsyncIterator[None]:
        """Trace the statements of an application while it runs; at the end send what is left."""
        # A custom database has one pool for both, and what listens to one engine hears the other.
        engines = {engine.pool: engine for engine in reversed(sessions.engines.values())}
        for engine in engines.values():
            _trace_statements(engine, self.provider.get_tracer("chassis"))
        try:
            yield
        finally:
            await asyncio.to_thread(self.provider.shutdown)

    def traceparent(self) -> str | None:
        """Return the W3C trace context of the current span."""
        span = trace.get_current_span().get_span_context()
        if not span.is_valid:
            return None
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


class _QueryMasker(SpanProcessor):
    """Hides query strings, which may hold secrets; FastAPI would send them."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if "url.query" in (getattr(span, "attributes", None) or {}):
            span.set_attribute("url.query", "***")


def _trace_statements(engine: Engine, tracer: Tracer) -> None:
    """Make a span for each statement, without its values."""

    @event.listens_for(engine, "before_cursor_execute")
    def start_span(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        attributes = {"db.system.name": engine.dialect.name, "db.query.text": statement}
        name = statement.split(None, 1)[0].upper()
        span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        connection.info.setdefault(_SPANS, []).append(span)

    @event.listens_for(engine, "after_cursor_execute")
    def end_span(connection: Connection, *_: object) -> None:
        connection.info[_SPANS].pop().end()

    @event.listens_for(engine, "handle_error")
    def end_failed_span(context: ExceptionContext) -> None:
        spans: list[Span] = context.connection.info.get(_SPANS, []) if context.connection else []
        if spans:
            span = spans.pop()
            span.set_attribute("error.type", type(context.original_exception).__qualname__)
            span.set_status(StatusCode.ERROR)
            span.end()
