"""The server process: uvicorn, with a stop that a load balancer can see coming."""

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..db.errors import DatabaseSettingsError, DatabaseUnavailableError
from ..db.postgres.connection_budget import report_budget
from ..http.problems import log_failure, problem_response
from ..http.request import RequestContext
from ..observe.logs import LogOptions, configure_logging
from ..settings import ChassisSettings
from .clients import Clients, ServingLoop, limit_connections, note_request
from .listening import listed_urls, open_sockets
from .supervisor import START_FAILED, Supervisor, exit_with_parent, is_orphan, stop_on_hangup
from .variables import explain

logger = logging.getLogger(__name__)


def run(app: str, settings: ChassisSettings, *, reload: bool = False) -> None:
    """Serve the application that the factory `app` makes, until a signal.

    Returns after SIGTERM or Ctrl-C, whatever the number of workers. Exits with 3 where it can't
    start, after one log line that says why (and a traceback where the reason is a bug).
    """
    configure_logging(LogOptions.of(settings))
    config = create_config(app, settings, reload=reload)
    server = Server(config, settings)
    sockets = _listen(settings)
    try:
        if reload:
            from uvicorn.supervisors import ChangeReload

            ChangeReload(config, server.run, sockets).run()
        elif config.workers > 1:
            with _shared_metrics(settings) as forget:
                Supervisor(partial(server.run, sockets), config.workers, sockets, forget).run()
        else:
            server.run(sockets)
    finally:
        for one in sockets:
            one.close()


def create_config(app: str, settings: ChassisSettings, *, reload: bool = False) -> uvicorn.Config:
    """Build what uvicorn needs to know."""
    return uvicorn.Config(
        app,
        factory=True,
        host=settings.server_host,
        port=settings.server_port,
        workers=1 if reload else settings.server_workers,
        reload=reload,
        reload_dirs=_source_folders(app) if reload else None,
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.server_trusted_proxies,
        root_path=settings.server_root_path,
        timeout_graceful_shutdown=settings.server_graceful_timeout_seconds,
    )


def _listen(settings: ChassisSettings) -> list[socket]:
    host, port = settings.server_host, settings.server_port
    try:
        return open_sockets(host, port)
    except OSError as error:
        logger.error(
            "APP_SERVER_HOST, APP_SERVER_PORT: can't listen on %s, port %d: %s",
            *(host, port, error.strerror or error),
        )
        sys.exit(START_FAILED)


def _shared_metrics(settings: ChassisSettings) -> AbstractContextManager[Callable[[int], object]]:
    if not settings.metrics_enabled:
        return nullcontext(lambda process: None)
    from ..observe.metrics import share_metrics

    return share_metrics(settings)


def _remove_shared_metrics() -> None:
    from ..observe.metrics import remove_shared_files

    remove_shared_files()


def _source_folders(app: str) -> list[str]:
    packages = (app.partition(":")[0].partition(".")[0], __package__ or "")
    specs = [find_spec(package) for package in packages]
    return [str(Path(spec.origin).parent) for spec in specs if spec is not None and spec.origin]


class Server(uvicorn.Server):
    """One process that serves. It reports a start that failed, and drains when told to stop.

    The drain: on SIGTERM or SIGHUP `/readyz` answers 503 and connections are closed after their
    response, while everything is still served, for `server_drain_seconds`; then nothing is
    accepted any more and requests get `server_graceful_timeout_seconds` to finish. A second signal,
    or Ctrl-C, skips the drain.
    """

    def __init__(self, config: uvicorn.Config, settings: ChassisSettings) -> None:
        super().__init__(config)
        self.draining = False
        self._settings = type(settings)
        self._log_options = LogOptions.of(settings)
        self._drain_seconds = settings.server_drain_seconds
        self._header_seconds = settings.server_header_timeout_seconds
        self._max_connections = settings.server_max_connections
        self._drained_at: float | None = None
        self._shares_metrics = settings.metrics_enabled and config.workers > 1

    def run(self, sockets: list[socket] | None = None) -> None:
        """Serve until a signal; this is also what a worker process runs."""
        configure_logging(self._log_options)
        self.config.configure_logging()
        if not exit_with_parent():
            self._stop_on_hangup()
        try:
            with asyncio.Runner(loop_factory=ServingLoop) as runner:
                runner.run(self.serve(sockets))
        except Exception as error:
            if self.started:
                raise
            self.report(error)
        finally:
            if self._shares_metrics and is_orphan():
                _remove_shared_metrics()
        if not self.started:
            sys.exit(START_FAILED)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start the application, inside what this server adds to it."""
        settings = _settings_of(self.config.loaded_app)
        self.config.loaded_app = DrainMiddleware(self.config.loaded_app, self)
        if sockets is not None:
            self._watch_clients(sockets)
        await super().startup(sockets)
        if self.started and sockets is not None:
            logger.info("Uvicorn running on %s (Press CTRL+C to quit)", listed_urls(sockets))
        if self.started and settings is not None:
            processes = self.config.workers * settings.server_replicas
            self._budget = asyncio.create_task(report_budget(settings, processes=processes))

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to stop; uvicorn asks ten times a second."""
        if self.draining:
            self._drain()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal. uvicorn would raise it again at the end: no exit code 0."""
        asks = sig != signal.SIGINT
        if asks and self._drain_seconds and self.started and not self.draining:
            self.draining = True
            return
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    def report(self, error: Exception) -> None:
        """Log why the start failed: in one line, or with a traceback where it is a bug."""
        match error:
            case DatabaseUnavailableError() | DatabaseSettingsError():
                logger.error("%s", error)
            case SettingsError():
                logger.error("%s", explain(error, self._settings))
            case ValidationError() if error.title == self._settings.__name__:
                logger.error("%s", explain(error, self._settings))
            case _:
                logger.error("the application can't start", exc_info=error)

    def _stop_on_hangup(self) -> None:
        """Take SIGHUP for SIGTERM, unless it is ignored (nohup): by itself it would cut requests.

        A worker leaves it alone, as its supervisor passes it on.
        """
        if threading.current_thread() is threading.main_thread():
            stop_on_hangup(self.handle_exit)

    def _watch_clients(self, sockets: list[socket]) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, ServingLoop):
            clients = Clients(
                limit=limit_connections(self._max_connections), header_seconds=self._header_seconds
            )
            loop.guard(sockets, clients)
            self._watch = asyncio.create_task(clients.watch())

    def _drain(self) -> None:
        if self._drained_at is None:
            self._drained_at = time.monotonic() + self._drain_seconds
            logger.info("draining for %g seconds", self._drain_seconds)
        if time.monotonic() >= self._drained_at:
            self.should_exit = True


class DrainMiddleware:
    """Tell load balancers and clients to go elsewhere while the server drains."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app = app
        self.server = server

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass what comes on, by its type."""
        note_request()
        if scope["type"] == "http":
            return self.serve(scope, receive, send)
        if scope["type"] == "lifespan":
            return self.lifespan(scope, receive, send)
        return self.app(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; a bug is logged here, as uvicorn would hang up after its answer."""
        try:
            await (self.drain if self.server.draining else self.app)(scope, receive, send)
        except Exception as error:
            request: RequestContext | None = scope.get("chassis")
            if request is None or not log_failure(request, error):
                raise

    async def drain(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and close the connection after it."""

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        app = self.app
        if scope["path"].removeprefix(scope.get("root_path", "")) == "/readyz":
            app = problem_response(503, "The service is stopping.")
        await app(scope, receive, send_and_close)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan; where it can't start, the server reports it and not a traceback."""

        async def send_in_short(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                message["message"] = ""
            await send(message)

        try:
            await self.app(scope, receive, send_in_short)
        except Exception as error:
            if not self.server.started:
                self.server.report(error)
            raise


def _settings_of(app: Any) -> ChassisSettings | None:
    """Find the settings of the application that is served, inside what wraps it."""
    while app is not None:
        settings = getattr(getattr(app, "state", None), "settings", None)
        if isinstance(settings, ChassisSettings):
            return settings
        app = getattr(app, "app", None)
    return None
