"""The server process: uvicorn, with a stop that a load balancer can see coming."""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .db.budget import report_budget
from .db.errors import DatabaseSettingsError, DatabaseUnavailableError
from .errors import problem_response
from .logs import LogOptions, configure_logging
from .settings import ChassisSettings
from .variables import explain

logger = logging.getLogger(__name__)

# The exit code that uvicorn uses too.
START_FAILED = 3


def run(app: str, settings: ChassisSettings, *, reload: bool = False) -> None:
    """Serve the application that the factory `app` makes, until a signal.

    Returns after SIGTERM or Ctrl-C, whatever the number of workers. Exits with 3 where it can't
    start, after one log line that says why (and a traceback where the reason is a bug).
    """
    config = create_config(app, settings, reload=reload)
    server = Server(config, settings)
    if reload:
        from uvicorn.supervisors import ChangeReload

        ChangeReload(config, server.run, [config.bind_socket()]).run()
    elif config.workers > 1:
        with _shared_metrics(settings) as forget:
            Supervisor(server, config.bind_socket(), forget).run()
    else:
        server.run()


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
        loop="uvloop" if find_spec("uvloop") else "asyncio",
        http=Protocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.server_trusted_proxies,
        timeout_graceful_shutdown=settings.server_graceful_timeout_seconds,
    )


def _shared_metrics(settings: ChassisSettings) -> AbstractContextManager[Callable[[int], object]]:
    if not settings.metrics_enabled:
        return nullcontext(lambda process: None)
    from .metrics import share_metrics

    return share_metrics(settings)


def _source_folders(app: str) -> list[str]:
    packages = (app.partition(":")[0].partition(".")[0], __package__ or "")
    specs = [find_spec(package) for package in packages]
    return [str(Path(spec.origin).parent) for spec in specs if spec is not None and spec.origin]


class Protocol(HttpToolsProtocol):
    """uvicorn's, which may close a connection while a request on it is still being served.

    It does so where garbage follows a request. asyncio would ignore the answer, uvloop raises: an
    error of the application by the looks of it, with a traceback that any client can cause.
    """

    def connection_made(self, transport: Any) -> None:
        """Take over a connection."""
        super().connection_made(Transport(transport))  # type: ignore[arg-type]


class Transport:
    """A transport that ignores what is written when it is closed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Send bytes, if there is anybody to send them to."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Server(uvicorn.Server):
    """One process that serves. It reports a start that failed, and drains when told to stop.

    The drain: on SIGTERM `/readyz` answers 503 and connections are closed after their response,
    while everything is still served, for `server_drain_seconds`; then nothing is accepted any
    more and requests get `server_graceful_timeout_seconds` to finish. A second signal, or Ctrl-C,
    skips the drain.
    """

    def __init__(self, config: uvicorn.Config, settings: ChassisSettings) -> None:
        super().__init__(config)
        self.draining = False
        self._settings = type(settings)
        self._log_options = LogOptions.of(settings)
        self._drain_seconds = settings.server_drain_seconds
        self._drained_at: float | None = None

    def run(self, sockets: list[socket] | None = None) -> None:
        """Serve until a signal; this is also what a worker process runs."""
        configure_logging(self._log_options)
        self.config.configure_logging()
        _stop_with_parent()
        try:
            super().run(sockets)
        except Exception as error:
            if self.started:
                raise
            self.report(error)
        if not self.started:
            sys.exit(START_FAILED)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start the application, inside what this server adds to it."""
        settings = _settings_of(self.config.loaded_app)
        self.config.loaded_app = DrainMiddleware(self.config.loaded_app, self)
        await super().startup(sockets)
        if self.started and settings is not None:
            processes = self.config.workers * settings.server_replicas
            self._budget = asyncio.create_task(report_budget(settings, processes=processes))

    async def on_tick(self, counter: int) -> bool:
        """Say ten times a second whether it is time to stop."""
        if self.draining:
            self._drain()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal. uvicorn would raise it again at the end: no exit code 0."""
        if sig == signal.SIGTERM and self._drain_seconds and self.started and not self.draining:
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
        """Pass the request on; a plain function, as most requests need no coroutine more."""
        if scope["type"] == "lifespan":
            return self.lifespan(scope, receive, send)
        if self.server.draining and scope["type"] == "http":
            return self.drain(scope, receive, send)
        return self.app(scope, receive, send)

    async def drain(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and close the connection after it."""

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        app = self.app
        if scope["path"] == "/readyz":
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


class Supervisor:
    """Several server processes on one socket; one that dies is replaced.

    uvicorn's own supervisor replaces them with servers that don't drain, forwards no second
    signal, holds the socket open while they stop, and exits with 0 where none can start.
    """

    def __init__(self, server: Server, sock: socket, on_death: Callable[[int], object]) -> None:
        self._server = server
        self._socket = sock
        self._on_death = on_death
        self._workers: list[SpawnProcess] = []
        self._signals: list[int] = []
        self._stopping = False
        self._failed = False

    def run(self) -> None:
        """Serve until a signal, or until a worker can't start."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self._signals.append(number))
        self._workers = [self._start() for _ in range(self._server.config.workers)]
        while self._workers:
            wait([worker.sentinel for worker in self._workers], timeout=0.1)
            while self._signals:
                self._signals.pop()
                self._stop()
            for worker in [worker for worker in self._workers if not worker.is_alive()]:
                self._bury(worker)
        if self._failed:
            sys.exit(START_FAILED)

    def _start(self) -> SpawnProcess:
        context = multiprocessing.get_context("spawn")
        worker = context.Process(target=self._server.run, args=([self._socket],))
        worker.start()
        return worker

    def _stop(self) -> None:
        self._stopping = True
        self._socket.close()
        for worker in self._workers:
            worker.terminate()

    def _bury(self, worker: SpawnProcess) -> None:
        self._workers.remove(worker)
        self._on_death(worker.pid or 0)
        if self._stopping:
            return
        if worker.exitcode == START_FAILED:
            self._failed = True
            self._stop()
        else:
            logger.warning(
                "worker [%s] died with %s, starting another", worker.pid, worker.exitcode
            )
            self._workers.append(self._start())


def _settings_of(app: Any) -> ChassisSettings | None:
    """Find the settings of the application that is served, inside what wraps it."""
    while app is not None:
        settings = getattr(getattr(app, "state", None), "settings", None)
        if isinstance(settings, ChassisSettings):
            return settings
        app = getattr(app, "app", None)
    return None


def _stop_with_parent() -> None:
    """Stop a worker whose parent was killed, and so could not tell it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
