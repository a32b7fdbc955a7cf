"""Metrics for Prometheus. Imported only if they are switched on."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from sqlalchemy import Engine
from starlette.responses import Response

from ..db.pool import Pool
from ..db.sessions import Sessions
from ..db.statements import PROCESS_STATS
from ..http.request import NO_ROUTE, RequestRecord
from ..settings import ChassisSettings

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# Where worker processes keep their numbers, so that each of them can answer with the sums.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_REFRESH_SECONDS = 1.0
_KNOWN_METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}


class Metrics:
    """What this process counts; a service adds its own with prometheus_client, as anywhere."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._engines: dict[str, Engine] = {}
        self._statements, self._seconds = 0, 0.0
        self._requests = Counter("http_requests", "Answered.", ("method", "route", "status"))
        self._durations = Histogram(
            "http_request_duration_seconds", "Until the answer's end.", ("method", "route")
        )
        self._in_flight = _create_gauge("http_requests_in_flight", "Not yet answered.")
        self.refused = Counter("http_requests_refused", "Above the limit of concurrent ones.")
        self._statements_run = Counter("database_statements", "Sent to databases.")
        self._database_seconds = Counter("database_seconds", "Spent in statements and commits.")
        self._size = _create_gauge("database_pool_size", "Connections kept open.", "pool")
        self._used = _create_gauge("database_pool_checked_out", "Connections in use.", "pool")
        self._over = _create_gauge("database_pool_overflow", "Connections beyond the size.", "pool")
        self._waiting = _create_gauge("database_pool_waiting", "Waiting for a connection.", "pool")
        # To look labels up takes longer than to count. There are so many routes and methods.
        self._counter = lru_cache(4096)(self._requests.labels)
        self._histogram = lru_cache(4096)(self._durations.labels)

    def observe(self, request: RequestRecord) -> None:
        """Count a request that was answered."""
        method, route = request.scope["method"], request.route or NO_ROUTE
        if method not in _KNOWN_METHODS:
            method = "OTHER"
        self._counter(method, route, request.status).inc()
        self._histogram(method, route).observe(perf_counter() - request.started)

    def refresh_gauges(self) -> None:
        """Bring the gauges, and the counters of statements, up to date."""
        self._in_flight.set(self.in_flight)
        self._statements_run.inc(PROCESS_STATS.count - self._statements)
        self._database_seconds.inc(PROCESS_STATS.seconds - self._seconds)
        self._statements, self._seconds = PROCESS_STATS.count, PROCESS_STATS.seconds
        for name, engine in self._engines.items():
            if isinstance(pool := engine.pool, Pool):
                self._size.labels(name).set(pool.size())
                self._used.labels(name).set(pool.checkedout())
                self._over.labels(name).set(max(0, pool.overflow()))
                self._waiting.labels(name).set(pool.waiting)

    @asynccontextmanager
    async def instrument(
        self, sessions: Sessions, settings: ChassisSettings
    ) -> AsyncIterator[None]:
        """Measure an application's pools while it runs, and serve the port of the metrics."""
        self._engines = sessions.engines
        if _FOLDER_VARIABLE not in os.environ:
            with _serve_port(settings, self):
                yield
            return
        refreshing = asyncio.create_task(self._keep_gauges_fresh())
        try:
            yield
        finally:
            refreshing.cancel()

    async def answer_scrape(self) -> Response:
        """Answer a scrape."""
        return Response(generate_latest(_create_registry(self)), media_type=CONTENT_TYPE_LATEST)

    async def _keep_gauges_fresh(self) -> None:
        """Write the gauges down again and again, for workers that are asked instead of this one."""
        while True:
            self.refresh_gauges()
            await asyncio.sleep(_REFRESH_SECONDS)


@cache
def process_metrics() -> Metrics:
    """Return the metrics of this process; their names can be registered only once."""
    return Metrics()


@contextmanager
def share_metrics(settings: ChassisSettings) -> Iterator[Callable[[int], object]]:
    """Let worker processes count together. Yield the function that forgets a dead one."""
    with tempfile.TemporaryDirectory(prefix="metrics-") as folder:
        os.environ[_FOLDER_VARIABLE] = folder
        try:
            with _serve_port(settings, None):
                yield mark_process_dead
        finally:
            del os.environ[_FOLDER_VARIABLE]


def remove_shared_files() -> None:
    """Remove this worker's numbers and those of dead ones; the last one removes the folder."""
    folder = Path(os.environ[_FOLDER_VARIABLE])
    for file in folder.glob("*.db"):
        process = int(file.stem.rpartition("_")[2])
        if process == os.getpid() or not _is_running(process):
            file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def _serve_port(settings: ChassisSettings, metrics: Metrics | None) -> Iterator[None]:
    if settings.metrics_port is None:
        yield
        return
    address, registry = (settings.metrics_port, settings.server_host), _create_registry(metrics)
    server, thread = start_http_server(*address, registry)
    server.set_app(_answer_head(make_wsgi_app(registry)))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer_head(app: "WSGIApplication") -> "WSGIApplication":
    """Answer HEAD as GET without a body; prometheus_client refuses it."""

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "HEAD":
            return app(environ, start_response)
        start: list[Any] = []

        def note_start(*sent: Any) -> Callable[[bytes], object]:
            start.extend(sent)
            return len

        body = app({**environ, "REQUEST_METHOD": "GET"}, note_start)
        status, headers = start
        start_response(status, [*headers, ("Content-Length", str(sum(map(len, body))))])
        return ()

    return answer


def _create_registry(metrics: Metrics | None) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Collector(metrics))
    return registry


class _Collector:
    """Collects the numbers of this process, or of all that share a folder, at each scrape."""

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        if self._metrics is not None:
            self._metrics.refresh_gauges()
        if _FOLDER_VARIABLE not in os.environ:
            return REGISTRY.collect()
        shared: Iterable[Metric] = MultiProcessCollector(None).collect()  # type: ignore[no-untyped-call]
        return shared


def _create_gauge(name: str, meaning: str, *labels: str) -> Gauge:
    return Gauge(name, meaning, labels, multiprocess_mode="livesum")
