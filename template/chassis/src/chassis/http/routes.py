"""The route that a request leads to, whether or not a router has seen the request yet."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, ForwardRef, Literal, NamedTuple, get_args, get_origin

from fastapi import FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from ..db.route_dependencies import Dependency, find_dependencies, iter_routes, read_parameters


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
    """Refuse types that FastAPI does not find, and what a dependency's `check_route` refuses."""
    for route in iter_routes(app.routes):
        dependencies = [*find_dependencies(route)]
        if isinstance(route.original_route, APIRoute | APIWebSocketRoute):
            _check_types(route, dependencies)
        for dependency in dependencies:
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


def _check_types(route: RouteContext, dependencies: Sequence[Dependency]) -> None:
    """Refuse a name that stands for nothing: FastAPI would answer with 422 or 500 ever after."""
    assert route.endpoint is not None
    handler = Dependency(route.endpoint, None, None)
    types = [
        (f"{taker.name} takes as {parameter}", kind)
        for taker in (handler, *dependencies)
        for parameter, kind, needs in read_parameters(taker.call)
        if not needs
    ]
    types.append((f"{handler.name} returns", getattr(route, "response_model", None)))
    for user, kind in types:
        if (name := _find_unknown_name(kind)) is not None:
            raise RouteError(
                f"{route.path}: {name} is not defined, which {user}: import it outside "
                "`if TYPE_CHECKING` or define it above, and write it without quotes"
            )


def _find_unknown_name(kind: Any) -> str | None:
    """Return a name in a type, or in a model's fields, that stands for nothing; else None."""
    match kind:
        case str():
            return kind
        case ForwardRef():
            return kind.__forward_arg__
        case type() if issubclass(kind, BaseModel):
            try:
                kind.model_rebuild()
            except PydanticUndefinedAnnotation as error:
                return f"{error.name} of {kind.__name__}"
    parts = () if get_origin(kind) is Literal else get_args(kind)
    names = map(_find_unknown_name, parts[:1] if get_origin(kind) is Annotated else parts)
    return next(filter(None, names), None)


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
