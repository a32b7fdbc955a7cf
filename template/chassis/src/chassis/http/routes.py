"""The route that a request leads to, whether or not a router has seen the request yet."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from ..db.route_dependencies import find_dependencies, iter_routes


class RouteError(Exception):
    """A route that can't be served as it asks, and what to change: the start is refused."""


class FoundRoute(NamedTuple):
    """A route, and its template with those of the mounts around, such as `/v1/items/{item_id}`."""

    route: RouteContext
    template: str


def probe_paths(metrics_path: str, root_path: str) -> frozenset[str]:
    """Return the paths of probes and metrics, with and without a proxy's prefix."""
    paths = ("/livez", "/readyz", metrics_path)
    return frozenset(root + path for root in ("", root_path) for path in paths)


def check_routes(app: FastAPI) -> None:
    """Let dependencies with a method `check_route` refuse a route that they are not for."""
    for route in iter_routes(app.routes):
        for dependency in find_dependencies(route):
            check = getattr(dependency.call, "check_route", None)
            if check is not None:
                check(route, app)


def find_route(app: Starlette, scope: Scope) -> FoundRoute | None:
    """Return the route of an application that a request leads to; None if there is no such route.

    One that does not take the method counts if no other does, as its answer is a 405.
    """
    # As it was before the request went into what is mounted.
    before = getattr(app, "root_path", "") or scope.get("root_path", "")
    # A number in the path may have more digits than Python reads: the router fails with it, too.
    with suppress(ValueError):
        root_path = scope.get("app_root_path", before)
        return _find_below(app.routes, {**scope, "root_path": root_path}, "")
    return None


def _find_below(routes: Sequence[BaseRoute], scope: Scope, template: str) -> FoundRoute | None:
    of_another_method: FoundRoute | None = None
    for route in iter_route_contexts(routes):
        match, child_scope = route.matches(scope)
        if match is Match.NONE:
            continue
        found = FoundRoute(route, template + (route.path_format or ""))
        below = getattr(route.original_route, "routes", None)
        if below is not None:
            mount = found.template.removesuffix("/{path}")
            return _find_below(below, {**scope, **child_scope}, mount)
        if match is Match.FULL:
            return found
        of_another_method = of_another_method or found
    return of_another_method
