"""Tracing: the spans of requests and of their statements, and where they are sent."""

import asyncio
import gzip
import io
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from chassis_stock import changed, create_stock, engines, register_dialect, started
from fastapi import APIRouter
from httpx2 import AsyncClient
from pydantic import SecretStr
from sqlalchemy import event, text

from chassis import ChassisSettings
from chassis.db import DbReadSession
from chassis.http.request import outgoing_headers
from chassis.observe.logs import JSONFormatter

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra `tracing`")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra `tracing`")

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SECRET = "s3cret-Pa55"
ENDLESS = """
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
    SELECT count(*) FROM numbers
"""

logger = logging.getLogger("sample")
router = APIRouter(prefix="/items")


@router.get("/{item_id}")
async def read_item(item_id: int, session: DbReadSession) -> dict[str, str]:
    """Run two statements, one of them with a value; show what another service would be sent."""
    await session.execute(text("SELECT 1"))
    await session.execute(text("SELECT CAST(:name AS VARCHAR(100))"), {"name": SECRET})
    logger.warning("read")
    return outgoing_headers()


@router.delete("/{item_id}")
async def delete_item(item_id: int, session: DbReadSession) -> None:
    """Run a statement that fails."""
    await session.execute(text("SELECT :name FROM nowhere"), {"name": SECRET})


@router.get("/{item_id}/numbers")
async def count_numbers(item_id: int, session: DbReadSession) -> None:
    """Run a statement that never ends."""
    await session.execute(text(ENDLESS))


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send spans nowhere, whatever the shell says."""
    for name in filter(lambda name: name.startswith("OTEL_"), list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")


class Traced:
    """A client of an application, and the spans that ended."""

    def __init__(self, app: Any, client: AsyncClient) -> None:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.client = client
        self._app = app
        self._exporter = InMemorySpanExporter()
        app.tracing.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    async def statement_begun(self) -> None:
        """Wait for a statement to begin."""
        _, reading = engines(self._app)
        begun = asyncio.Event()
        event.listen(reading.sync_engine, "before_cursor_execute", lambda *_: begun.set())
        async with asyncio.timeout(60):
            await begun.wait()
        # By then it has been sent.
        await asyncio.sleep(0.05)

    def take(self) -> "tuple[ReadableSpan, ...]":
        """Return the spans that ended since the last time, in that order."""
        spans = self._exporter.get_finished_spans()
        self._exporter.clear()
        return spans


@asynccontextmanager
async def tracing(settings: ChassisSettings, **changes: object) -> AsyncIterator[Traced]:
    app = create_stock(changed(settings, tracing_enabled=True, **changes), router)
    async with started(app) as client:
        yield Traced(app, client)


async def test_a_request_and_its_statements_are_spans_of_one_trace(
    settings: ChassisSettings,
) -> None:
    async with tracing(settings) as traced:
        await traced.client.get("/items/7")
        first, second, request = traced.take()

    assert (request.name, request.kind.name) == ("GET /items/{item_id}", "SERVER")
    assert attributes(request)["http.route"] == "/items/{item_id}"
    assert attributes(request)["http.response.status_code"] == 200
    assert request.parent is None
    for span in (first, second):
        assert (span.name, span.kind.name) == ("SELECT", "CLIENT")
        assert span.parent is not None
        assert span.parent.span_id == context(request).span_id
        assert context(span).trace_id == context(request).trace_id
    dialect = settings.database_target.url.get_backend_name()
    assert attributes(first) == {"db.system.name": dialect, "db.query.text": "SELECT 1"}


async def test_no_span_has_the_values_of_a_statement(settings: ChassisSettings) -> None:
    async with tracing(settings) as traced:
        await traced.client.get("/items/7")
        await traced.client.delete("/items/7")
        written = "".join(span.to_json() for span in traced.take())

    assert "SELECT CAST(" in written
    assert "FROM nowhere" in written
    assert SECRET not in written


async def test_no_span_has_a_query_string(settings: ChassisSettings) -> None:
    async with tracing(settings) as traced:
        await traced.client.get("/items/7", params={"token": SECRET})
        *_, request = traced.take()

    assert SECRET not in request.to_json()


async def test_a_statement_is_one_span_where_one_engine_reads_and_writes(tmp_path: Path) -> None:
    register_dialect()
    settings = ChassisSettings(
        database_backend="custom",
        database_url=SecretStr(f"depot+aiosqlite:///{tmp_path}/a.db"),
        alembic_database_url=SecretStr(f"depot:///{tmp_path}/a.db"),
    )
    async with tracing(settings) as traced:
        await traced.client.get("/items/7")
        assert [span.name for span in traced.take()] == ["SELECT", "SELECT", "GET /items/{item_id}"]


async def test_a_trace_that_was_begun_elsewhere_goes_on(settings: ChassisSettings) -> None:
    async with tracing(settings) as traced:
        await traced.client.get("/items/7", headers=SENT)
        *_, request = traced.take()

    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert f"{context(request).trace_id:032x}" == TRACE


async def test_a_trace_that_is_not_recorded_elsewhere_is_not_recorded_here(
    settings: ChassisSettings,
) -> None:
    async with tracing(settings) as traced:
        answer = await traced.client.get(
            "/items/7", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}
        )
        assert traced.take() == ()

    assert answer.json()["traceparent"][3:35] == TRACE
    assert answer.json()["traceparent"].endswith("-00")


async def test_log_lines_and_outgoing_calls_name_the_span(settings: ChassisSettings) -> None:
    async with tracing(settings) as traced:
        with sample_lines() as log:
            answer = await traced.client.get("/items/7")
        *_, request = traced.take()

    trace, span = f"{context(request).trace_id:032x}", f"{context(request).span_id:016x}"
    assert answer.json()["traceparent"].startswith(f"00-{trace}-{span}-")
    assert json.loads(log.getvalue())["trace_id"] == trace


async def test_the_spans_of_a_failed_statement_and_its_request_are_failures(
    settings: ChassisSettings,
) -> None:
    async with tracing(settings) as traced:
        answer = await traced.client.delete("/items/7")
        statement, request = traced.take()

    assert answer.status_code == 500
    assert {span.status.status_code.name for span in (statement, request)} == {"ERROR"}
    assert attributes(statement)["error.type"].endswith("Error")


async def test_no_span_stays_open_when_a_statement_is_cancelled(settings: ChassisSettings) -> None:
    async with tracing(settings) as traced:
        request = asyncio.create_task(traced.client.get("/items/7/numbers"))
        await traced.statement_begun()
        request.cancel()
        await asyncio.wait([request])
        statement, cancelled = traced.take()
        await traced.client.get("/items/7")
        assert [span.name for span in traced.take()] == ["SELECT", "SELECT", "GET /items/{item_id}"]

    assert (statement.name, attributes(statement)["error.type"]) == ("WITH", "CancelledError")
    assert cancelled.name == "GET /items/{item_id}/numbers"


async def test_the_span_of_a_request_that_is_late_ends_too(settings: ChassisSettings) -> None:
    async with tracing(settings, http_request_timeout_seconds=0.2) as traced:
        answer = await traced.client.get("/items/7/numbers")
        *_, request = traced.take()

    assert answer.status_code == attributes(request)["http.response.status_code"] == 504
    assert request.status.status_code.name == "ERROR"


async def test_the_spans_that_are_left_are_sent_at_the_end(
    settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (port, received):
        monkeypatch.delenv("OTEL_TRACES_EXPORTER")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with tracing(settings) as traced:
            await traced.client.get("/items/7")
            assert received == []

    (resource,) = received
    names = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert names["service.name"] == "chassis_stock"
    spans = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(spans) == ["GET /items/{item_id}", "SELECT", "SELECT"]


def attributes(span: "ReadableSpan") -> dict[str, Any]:
    return dict(span.attributes or {})


def context(span: "ReadableSpan") -> "SpanContext":
    found: SpanContext = span.context
    return found


@contextmanager
def sample_lines() -> Iterator[io.StringIO]:
    """Return what the sample's logger writes, as JSON."""
    handler = logging.StreamHandler(log := io.StringIO())
    handler.setFormatter(JSONFormatter(()))
    logger.addHandler(handler)
    yield log
    logger.removeHandler(handler)


@contextmanager
def collector() -> Iterator[tuple[int, "list[ResourceSpans]"]]:
    """Receive spans as a collector does."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[ResourceSpans] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            received.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port, received
        finally:
            server.shutdown()
            thread.join()
