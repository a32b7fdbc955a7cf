"""The server process: uvicorn, with a stop that a load balancer can see coming."""

import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from socket import socket
from types import FrameType

import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError
from starlette.types import ASGIApp

from ..db.errors import DatabaseSettingsError, DatabaseUnavailableError, SessionPlanError
from ..db.postgres.connection_budget import report_budget
from ..http.routes import RouteError
from ..http.stopping import Shutdown, end_all_tasks, server_shutdown
from ..observe.logs import LogOptions, configure_logging
from ..settings import ChassisSettings
from .clients import Clients, ServingLoop, limit_connections
from .exposure import describe_exposure
from .listening import format_urls, open_sockets
from .processes import START_FAILED, exit_with_parent, handle_hangup, is_orphan
from .server_middleware import ServerMiddleware
from .variables import explain

logger = logging.getLogger(__name__)


def run(app: str, settings: ChassisSettings, *, reload: bool = False) -> None:
    """Serve the application that the factory `app` makes, until a signal.

    Return after SIGTERM or Ctrl-C, whatever the number of workers. Exit with 3 if it can't start,
    after one log line that says why (and a traceback if the reason is a bug).
    """
    configure_logging(LogOptions.from_settings(settings))
    if reload:
        settings = settings.model_copy(update={"server_workers": 1})
    server = Server(app, settings)
    sockets = _open_sockets_or_exit(settings)
    serve = partial(server.run, sockets)
    try:
        if reload:
            from .supervisor import serve_and_reload

            serve_and_reload(serve, _source_folders(app))
        elif settings.server_workers > 1:
            from .supervisor import Supervisor

            with _shared_metrics(settings) as forget:
                Supervisor(serve, settings.server_workers, sockets, forget).run()
        else:
            serve()
    finally:
        for one in sockets:
            one.close()


def _open_sockets_or_exit(settings: ChassisSettings) -> list[socket]:
    host, port = settings.server_host, settings.server_port
    try:
        return open_sockets(host, port)
    except OSError as error:
        logger.error(
            "APP_SERVER_HOST, APP_SERVER_PORT: can't listen on %s, port %d: %s",
            *(host, port, error.strerror or error),
        )
        sys.exit(START_FAILED)


def _source_folders(app: str) -> list[Path]:
    """Return the folders of the service's package and of the chassis."""
    packages = (app.partition(":")[0].partition(".")[0], __name__.partition(".")[0])
    specs = [find_spec(package) for package in packages]
    return [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]


def _shared_metrics(settings: ChassisSettings) -> AbstractContextManager[Callable[[int], object]]:
    if not settings.metrics_enabled:
        return nullcontext(lambda process: None)
    from ..observe.metrics import share_metrics

    return share_metrics(settings)


class Server(uvicorn.Server):
    """One process that serves. It reports a start that failed, and drains when told to stop.

    The drain: on SIGTERM or SIGHUP `/readyz` answers 503 and connections are closed after their
    response, while everything is still served, for `server_drain_seconds`; then nothing is
    accepted any more and requests get `server_graceful_timeout_seconds` to finish. A second signal,
    or Ctrl-C, skips the drain.
    """

    def __init__(self, app: str, settings: ChassisSettings) -> None:
        config = uvicorn.Config(
            self._create_app,
            factory=True,
            interface="asgi3",
            host=settings.server_host,
            port=settings.server_port,
            http="httptools",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=settings.server_trusted_proxies,
            root_path=settings.server_root_path,
            timeout_keep_alive=settings.server_keep_alive_seconds,
            timeout_graceful_shutdown=settings.server_graceful_timeout_seconds,
        )
        super().__init__(config)
        self.draining = False
        self._shutdown = Shutdown()
        self._app = app
        self._settings = settings

    def run(self, sockets: list[socket] | None = None) -> None:
        """Serve until a signal; this is also what a worker process runs."""
        configure_logging(LogOptions.from_settings(self._settings))
        has_supervisor = exit_with_parent()
        if not has_supervisor and threading.current_thread() is threading.main_thread():
            # By itself a hang-up would cut requests.
            handle_hangup(self.handle_exit)
        try:
            with asyncio.Runner(loop_factory=ServingLoop) as runner:
                runner.run(self.serve(sockets))
                runner.run(end_all_tasks())
        except Exception as error:
            if self.started:
                raise
            self._report_failed_start(error)
        finally:
            if self._settings.metrics_enabled and self._settings.server_workers > 1 and is_orphan():
                from ..observe.metrics import remove_shared_files

                remove_shared_files()
        if not self.started:
            sys.exit(START_FAILED)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start the application, inside what this server adds to it."""
        self._loop = asyncio.get_running_loop()
        server_shutdown.set(self._shutdown)
        if sockets is not None:
            self._watch_clients(sockets)
        await super().startup(sockets)
        if self.started and sockets is not None:
            logger.info("Uvicorn running on %s (Press CTRL+C to quit)", format_urls(sockets))
        if self.started:
            # What the start made stays: no search for garbage during requests goes through it.
            gc.freeze()
            settings = self._settings
            if (exposed := describe_exposure(settings, self._application)) is not None:
                logger.info("%s", exposed)
            processes = settings.server_workers * settings.server_replicas
            self._budget = asyncio.create_task(report_budget(settings, processes=processes))

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Tell tasks and streams, wait for requests, then end the lifespan."""
        self._shutdown.begin(self._settings.server_graceful_timeout_seconds)
        self._shutdown.for_requests.set()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal. uvicorn would raise it again at the end: no exit code 0."""
        is_first = self.started and not (self.draining or self.should_exit)
        if sig != signal.SIGINT and self._settings.server_drain_seconds and is_first:
            self.draining = True
            self._loop.call_soon_threadsafe(self._begin_drain)
            return
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    def _report_failed_start(self, error: Exception) -> None:
        """Log why the start failed: in one line, or with a traceback if it is a bug."""
        kind = type(self._settings)
        match error:
            case DatabaseUnavailableError() | DatabaseSettingsError():
                logger.error("%s", error)
            case SessionPlanError() | RouteError():
                logger.error("%s", error)
            case SettingsError():
                logger.error("%s", explain(error, kind))
            case ValidationError() if error.title == kind.__name__:
                logger.error("%s", explain(error, kind))
            case _:
                logger.error("the application can't start", exc_info=error)

    def _create_app(self) -> ASGIApp:
        """Call the service's factory. Exit if it fails: uvicorn hides where a TypeError was."""
        try:
            self._application = app = resolve_name(self._app)()
        except Exception as error:
            self._report_failed_start(error)
            sys.exit(START_FAILED)
        return ServerMiddleware(
            app,
            is_draining=lambda: self.draining,
            wait_for_tasks=self._shutdown.wait_for_tasks,
            report_failed_start=self._report_failed_start,
        )

    def _watch_clients(self, sockets: list[socket]) -> None:
        loop, settings = self._loop, self._settings
        if isinstance(loop, ServingLoop):
            clients = Clients(
                limit=limit_connections(settings.server_max_connections),
                header_seconds=settings.server_header_timeout_seconds,
            )
            loop.guard(sockets, clients)
            self._watch = asyncio.create_task(clients.watch())

    def _begin_drain(self) -> None:
        seconds = self._settings.server_drain_seconds
        logger.info("draining for %g seconds", seconds)
        self._shutdown.begin(seconds + self._settings.server_graceful_timeout_seconds)
        self._loop.call_later(seconds, setattr, self, "should_exit", True)
