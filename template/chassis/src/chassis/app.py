"""The application: what every service has around its routers."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from .db.address.log_lines import log_database
from .db.borrowed import describe_fallbacks
from .db.readiness import DatabaseProbe
from .db.request_sessions import plan_routes
from .db.session_factories import open_sessions
from .http.answers import answer_cancellations, enclose_middleware
from .http.error_handlers import PROBLEM_HANDLERS, add_error_handlers
from .http.health import add_readiness_check, health_router
from .http.limits import RequestLimits, RouteLimits
from .http.middleware import RequestMiddleware
from .http.openapi import describe_problems, operation_id
from .http.routes import check_routes
from .http.stopping import Shutdown, server_shutdown
from .observe.loop_watch import LoopWatch
from .parts import (
    allow_origins,
    create_authentication,
    create_docs,
    create_metrics,
    create_tracing,
    limit_concurrency,
    run_jobs,
)
from .settings import ChassisSettings
from .versions import find_version

if TYPE_CHECKING:
    from .auth.authentication import Authentication, Authenticator
    from .jobs.job import AnyJob
    from .jobs.registry import JobRegistry
    from .observe.metrics import Metrics
    from .observe.tracing import Tracing

logger = logging.getLogger(__name__)


_CORS = "CORSMiddleware"
# Options of FastAPI that the chassis owns, and what to use instead.
_OWNED_OPTIONS = {
    "debug": "would show tracebacks to clients; they are in the log, with APP_LOG_LEVEL=DEBUG more",
    "max_body_size": "is set by APP_HTTP_MAX_BODY_BYTES, for a route or router by "
    "dependencies=[request_limits(max_body_bytes=…)]",
}


def create_app(
    settings: ChassisSettings,
    *,
    package: str,
    routers: Sequence[APIRouter] = (),
    lifespan: Lifespan[FastAPI] | None = None,
    authenticators: Sequence["Authenticator"] = (),
    jobs: Sequence["AnyJob"] = (),
    **fastapi: Any,
) -> FastAPI:
    """Build a service's application; nothing connects before it is started.

    `package` is the service's own name, `__name__` of its main module: its migrations and its
    version are found by it. `lifespan` runs with the sessions open. `authenticators` say who sends
    a request, before its bearer token does. `jobs` may be enqueued, and are what a worker runs. All
    other options are FastAPI's. The settings are at `app.state.settings`. Raise TypeError for an
    option that FastAPI does not have, or that the chassis owns.
    """
    for name in _OWNED_OPTIONS.keys() & fastapi.keys():
        raise TypeError(f"create_app({name}=…): {name} {_OWNED_OPTIONS[name]}")
    if iscoroutinefunction(lifespan):
        raise TypeError("create_app(lifespan=…): write it with @asynccontextmanager and one yield")
    authentication = create_authentication(settings, authenticators)
    app = _Application(settings, package.partition(".")[0], lifespan, authentication, fastapi)
    if jobs:
        from .jobs.registry import JobRegistry

        app.jobs = JobRegistry(jobs)
    add_error_handlers(app, PROBLEM_HANDLERS)
    add_readiness_check(app, "database", app.check_database)
    for router in routers:
        app.include_router(router)
    return app


class _Application(FastAPI):
    """FastAPI inside the chassis's middleware, with every problem in its OpenAPI document."""

    jobs: "JobRegistry | None" = None

    def __init__(
        self,
        settings: ChassisSettings,
        package: str,
        lifespan: Lifespan[FastAPI] | None,
        authentication: "Authentication | None",
        options: Mapping[str, Any],
    ) -> None:
        self.metrics = create_metrics(settings)
        self.tracing = create_tracing(settings, package)
        # A router takes each form of a lifespan that FastAPI does, and none.
        self.own_lifespan = APIRouter(lifespan=lifespan).lifespan_context
        chosen = _add_defaults(options, settings, package, self.tracing)
        # First, so that they are found first, and as they are: an option such as `dependencies`
        # is for the service's own routes.
        first, docs = _create_routes(settings, self.metrics), create_docs(chosen, settings)
        chosen["routes"] = [*first, *(options.get("routes") or ()), *docs]
        self.own_routes = [*first, *docs]
        super().__init__(lifespan=_lifespan, **chosen)
        self.state.readiness_checks = {}
        default = RequestLimits(
            settings.http_max_body_bytes or inf, settings.http_request_timeout_seconds or inf
        )
        self.limits = RouteLimits(self, default)
        self._surrounded: ASGIApp | None = None
        self.state.settings = settings
        self.state.package = package
        self.state.authentication = self.authentication = authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the chassis's middleware around everything, the handler of the last resort too."""
        if self._surrounded is None:
            self._surrounded = self.surround()
        scope["app"] = self
        await self._surrounded(scope, receive, send)

    def surround(self) -> ASGIApp:
        """Build what is around FastAPI: checks and limits, and where it is wanted, CORS."""
        settings: ChassisSettings = self.state.settings
        if any(getattr(each.cls, "__name__", "") == _CORS for each in self.user_middleware):
            logger.warning(
                "%s of the service's own reaches neither a 500 nor what is refused before it "
                "(400, 413, 504), so that pages can't read why: set APP_HTTP_CORS_ORIGINS",
                _CORS,
            )
        enclose_middleware(self)
        _adopt_mounted(self, self.routes, "")
        if self.tracing is not None:
            self.add_middleware(answer_cancellations)
        return RequestMiddleware(
            limit_concurrency(super().__call__, settings, self.metrics),
            settings,
            limits=self.limits,
            metrics=self.metrics,
            trace=None if self.tracing is None else self.tracing.traceparent,
            allow_origins=partial(allow_origins, settings=settings),
        )

    async def check_database(self) -> str | None:
        """Return None if the database can serve, else the reason."""
        probe: DatabaseProbe = self.state.database_probe
        return await probe.check()

    def include_router(self, router: APIRouter, **options: Any) -> None:
        """Include a router. Its lifespan runs its `on_event` handlers: no copies are kept here."""
        handlers = [getattr(self.router, kind, []) for kind in ("on_startup", "on_shutdown")]
        counts = [len(found) for found in handlers]
        super().include_router(router, **options)
        for found, count in zip(handlers, counts, strict=True):
            del found[count:]

    def openapi(self) -> dict[str, Any]:
        """Build the document once."""
        if self.openapi_schema is None:
            document = super().openapi()
            describe_problems(document, self, self.limits.default)
            if self.authentication is not None:
                self.authentication.describe(document)
        return self.openapi_schema or {}


def _create_routes(settings: ChassisSettings, metrics: "Metrics | None") -> list[BaseRoute]:
    router = APIRouter(routes=health_router.routes)
    if metrics is not None and settings.metrics_port is None:
        router.add_api_route(settings.metrics_path, metrics.answer_scrape, include_in_schema=False)
    return router.routes


def _add_defaults(
    options: Mapping[str, Any],
    settings: ChassisSettings,
    package: str,
    tracing: "Tracing | None",
) -> dict[str, Any]:
    """Return FastAPI's options, with the defaults of a service where none was given."""
    chosen: dict[str, Any] = {
        "title": package.replace("_", " ").title(),
        "redoc_url": None,
        # Else FastAPI asks OpenTelemetry for providers in each request: a tenth of a short one.
        "telemetry": dict.fromkeys(("tracing", "metrics", "logs", "auto_configure"), False),
        "generate_unique_id_function": operation_id,
    }
    if "version" not in options and (version := find_version(package)) is not None:
        chosen["version"] = version
    chosen |= options
    if tracing is not None:
        chosen["telemetry"] = {**tracing.fastapi_telemetry, **(options.get("telemetry") or {})}
    if settings.auth_required:
        from .auth.callers import require_caller

        chosen["dependencies"] = [Depends(require_caller), *(options.get("dependencies") or ())]
    if not settings.docs_enabled:
        chosen |= dict.fromkeys(("openapi_url", "docs_url", "redoc_url"))
    return chosen


@asynccontextmanager
async def _lifespan(app: _Application) -> AsyncIterator[Any]:
    settings: ChassisSettings = app.state.settings
    log_database(settings)
    async with AsyncExitStack() as stack:
        plans = plan_routes(app.routes)
        check_routes(app)
        sessions = await stack.enter_async_context(open_sessions(settings))
        sessions.plans.update(plans)
        sessions.write.configure(info={"chassis_jobs": app.jobs or ()})
        for sentence in describe_fallbacks():
            logger.warning(sentence)
        probe = DatabaseProbe(settings, app.state.package)
        probe.watch_file(write=sessions.write.kw["bind"], read=sessions.read.kw["bind"])
        stack.push_async_callback(probe.dispose)
        app.state.sessions, app.state.database_probe = sessions, probe
        app.state.shutdown = server_shutdown.get() or Shutdown()
        if app.authentication is not None:
            app.authentication.plan_routes(app, app.own_routes)
            await stack.enter_async_context(app.authentication.open())
        for part in (app.metrics, app.tracing):
            if part is not None:
                await stack.enter_async_context(part.instrument(sessions, settings))
        await _run_handlers(app, "on_startup")
        stack.push_async_callback(_run_handlers, app, "on_shutdown")
        # Checks that the lifespan adds are gone when it is run again.
        added_before = dict(app.state.readiness_checks)
        stack.callback(setattr, app.state, "readiness_checks", added_before)
        state = await stack.enter_async_context(app.own_lifespan(app))
        if not isinstance(state, Mapping | None):
            raise TypeError(
                f"create_app(lifespan=…): it yields {type(state).__name__}; yield nothing, or a "
                "mapping whose entries are attributes of request.state"
            )
        await stack.enter_async_context(run_jobs(app, app.jobs, state))
        app.limits.check_routes()
        # Last, as nobody waits for a start that blocks.
        stack.callback(LoopWatch().end)
        yield state


async def _run_handlers(app: FastAPI, kind: Literal["on_startup", "on_shutdown"]) -> None:
    """Run the application's own `on_event` handlers, which FastAPI ignores beside a lifespan."""
    for handler in getattr(app.router, kind, ()):
        if isawaitable(result := handler()):
            await result


def _adopt_mounted(app: Starlette, routes: Sequence[BaseRoute], path: str) -> None:
    """Make mounted applications answer as the service does, and name routes by the whole path."""
    for context in iter_route_contexts(routes):
        if isinstance(mount := context.original_route, Mount):
            below = path + mount.path
            if isinstance(mounted := mount.app, Starlette):
                add_error_handlers(mounted, app.exception_handlers)
                enclose_middleware(mounted)
                mounted.state.mounted_at = below
            _adopt_mounted(app, mount.routes, below)
