"""What is open to everybody who reaches a service, which is no matter on one's own machine."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.security.base import SecurityBase

from ..db.address.urls import DatabaseTarget
from ..db.route_dependencies import find_dependencies, iter_routes
from ..settings import ChassisSettings

TLS_ADVICE = "set APP_DATABASE_POSTGRES_SSLMODE=verify-full and APP_DATABASE_POSTGRES_SSLROOTCERT"
_LOCAL = re.compile(r"/|127\.|(localhost|::1)$")


class Exposure(NamedTuple):
    """One thing that is open, and what closes it."""

    subject: str
    message: str
    advice: str


def is_local(host: str) -> bool:
    """Return whether an address, a name or a socket is of this machine alone."""
    return _LOCAL.match(host) is not None


def describe_exposure(settings: ChassisSettings, app: object) -> str | None:
    """Return the log line of a service that others reach, if something is open."""
    if is_local(settings.server_host):
        return None
    found = [f"{one.subject} ({one.message})" for one in find_exposures(settings, app)]
    if not found:
        return None
    listed = ", ".join(found)
    return f"open to all who reach {settings.server_host}: {listed}; doctor says what closes it"


def find_exposures(settings: ChassisSettings, app: object) -> Iterator[Exposure]:
    """Yield what is open, by the settings and by the routes of the application."""
    if settings.docs_enabled and getattr(app, "openapi_url", True):
        advice = "set APP_DOCS_ENABLED=false"
        yield Exposure("docs", "the OpenAPI document is shown", advice)
    if "*" in settings.http_allowed_hosts:
        advice = "set APP_HTTP_ALLOWED_HOSTS to the names that clients use"
        yield Exposure("hosts", "any Host header is served", advice)
    if "*" in settings.http_cors_origins:
        advice = "name the origins in APP_HTTP_CORS_ORIGINS"
        yield Exposure("cors", "web pages of any origin may call it", advice)
    targets = (settings.database_target, settings.database_read_target)
    if any(_may_lack_tls(target) for target in targets):
        yield Exposure("database", "TLS is not demanded of it", TLS_ADVICE)
    if isinstance(app, FastAPI) and not _asks_who_sends(app):
        advice = "set APP_AUTH_ISSUER and APP_AUTH_AUDIENCE, and APP_AUTH_REQUIRED=true"
        yield Exposure("authentication", "no route asks who sends a request", advice)
    if settings.metrics_enabled and settings.metrics_port is None:
        advice = "set APP_METRICS_PORT to a port that only Prometheus reaches"
        yield Exposure("metrics", "they are on the public port", advice)
    if settings.server_trusted_proxies == "*":
        advice = "name the proxies in APP_SERVER_TRUSTED_PROXIES"
        yield Exposure("proxies", "X-Forwarded-* of everybody counts", advice)


def _may_lack_tls(target: DatabaseTarget) -> bool:
    """Return whether the way to a PostgreSQL elsewhere may be without TLS."""
    if target.backend != "postgres" or all(is_local(host) for host, _ in target.hosts):
        return False
    mode = target.parameters.get("sslmode", os.environ.get("PGSSLMODE"))
    is_verified = target.parameters.get("sslrootcert") == "system"
    return not is_verified and mode not in ("require", "verify-ca", "verify-full")


def _asks_who_sends(app: FastAPI) -> bool:
    """Return whether a route has a caller of the chassis, or a security scheme of FastAPI."""
    routes = iter_routes(app.routes)
    calls = [dependency.call for route in routes for dependency in find_dependencies(route)]
    if any(isinstance(call, SecurityBase) for call in calls):
        return True
    if app.state.authentication is None:
        return False
    from ..auth.callers import get_caller, require_caller

    return any(call in (get_caller, require_caller) for call in calls)
