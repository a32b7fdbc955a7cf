"""What a service switches on: imported only then, as it costs time at the start, and memory."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from .http.headers import ANSWERED_HEADERS, SENT_HEADERS
from .http.routes import probe_paths
from .settings import ChassisSettings

if TYPE_CHECKING:
    from .auth.authentication import Authentication, Authenticator
    from .jobs.registry import JobRegistry
    from .observe.metrics import Metrics
    from .observe.tracing import Tracing


def create_authentication(
    settings: ChassisSettings, authenticators: Sequence["Authenticator"]
) -> "Authentication | None":
    """Return how the service finds out who sends a request, if it can."""
    if not settings.auth_issuer and not authenticators:
        return None
    from .auth.authentication import Authentication

    return Authentication(settings, authenticators)


def create_metrics(settings: ChassisSettings) -> "Metrics | None":
    """Return the metrics of the process."""
    if not settings.metrics_enabled:
        return None
    from .observe.metrics import process_metrics

    return process_metrics()


def create_tracing(settings: ChassisSettings, package: str) -> "Tracing | None":
    """Return what makes spans."""
    if not settings.tracing_enabled:
        return None
    from .observe.tracing import Tracing

    return Tracing(package)


def create_docs(options: Mapping[str, Any], settings: ChassisSettings) -> list[BaseRoute]:
    """Return the routes of /docs without a third party, if the extra is installed."""
    if find_spec("fastapi_swagger") is None:
        return []
    from .http.docs import create_docs_routes

    return create_docs_routes(options, is_secured=settings.http_security_headers)


def limit_concurrency(
    app: ASGIApp, settings: ChassisSettings, metrics: "Metrics | None"
) -> ASGIApp:
    """Put the limit of requests at once around an application, if there is one."""
    if not (limit := settings.http_max_concurrent_requests):
        return app
    from .http.concurrency import ConcurrencyLimit

    exempt = probe_paths(settings.metrics_path, settings.server_root_path)
    return ConcurrencyLimit(app, limit, exempt, metrics)


def allow_origins(app: ASGIApp, settings: ChassisSettings) -> ASGIApp:
    """Put CORS around an application, if other origins may use it."""
    if not settings.http_cors_origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=settings.http_cors_origins,
        allow_methods=settings.http_cors_methods,
        allow_headers=(*settings.http_cors_headers, settings.http_request_id_header, *SENT_HEADERS),
        allow_credentials=settings.http_cors_credentials,
        expose_headers=(settings.http_request_id_header, *ANSWERED_HEADERS),
    )


def run_jobs(
    app: FastAPI, registry: "JobRegistry | None", state: Mapping[str, Any] | None
) -> AbstractAsyncContextManager[None]:
    """Run what jobs need beside the requests, if there are any."""
    if registry is None:
        return nullcontext()
    from .jobs.lifespan import run_jobs
    from .jobs.worker import create_worker

    registry.worker = create_worker(app, registry, state)
    return run_jobs(app, registry.worker, registry.find_scheduled())
