"""How large the body of a request may be and how long its answer may take, by its route."""

from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from fastapi import FastAPI
from fastapi.params import Depends
from fastapi.routing import RouteContext
from starlette.routing import WebSocketRoute
from starlette.types import Scope

from ..db.route_dependencies import find_dependencies, iter_routes
from .routes import RouteError, find_route

if TYPE_CHECKING:
    from .request import RequestRecord


class RequestLimits(NamedTuple):
    """What counts for a request: `inf` if there is no limit."""

    max_body_bytes: float
    timeout_seconds: float


@dataclass(frozen=True)
class OwnLimits:
    """What a route or router changes; a dependency, as these are passed on from router to route."""

    max_body_bytes: int | None
    timeout_seconds: float | None

    async def __call__(self) -> None:
        """Do nothing: the limits count before FastAPI resolves dependencies."""

    def change(self, limits: RequestLimits) -> RequestLimits:
        """Return limits with these in place of those of the routers around, or of the settings."""
        return limits._replace(
            **{name: value or inf for name, value in vars(self).items() if value is not None}
        )


def request_limits(
    *, max_body_bytes: int | None = None, timeout_seconds: float | None = None
) -> Depends:
    """Limit the requests of a route or router otherwise: `dependencies=[request_limits(…)]`.

    0 is no limit. What is not given is as in the router around, or in the settings. Raise
    ValueError for a limit below 0, and if none is given.
    """
    own = OwnLimits(max_body_bytes, timeout_seconds)
    given = {name: value for name, value in vars(own).items() if value is not None}
    if not given:
        raise ValueError("request_limits: give max_body_bytes, timeout_seconds, or both")
    for name, value in given.items():
        if not isinstance(value, int | float) or not 0 <= value < inf:
            raise ValueError(f"request_limits: {name}={value!r} must be a number, 0 for no limit")
    return Depends(own)


class RouteLimits:
    """The limits of an application's routes; its own routes are read at the start, once."""

    def __init__(self, app: FastAPI, default: RequestLimits) -> None:
        self._app = app
        self.default = default

    def check_routes(self) -> None:
        """Raise RouteError for a route that can't have the limits that it sets."""
        _ = self._all_limits

    @cached_property
    def smallest(self) -> RequestLimits:
        """The smallest of each kind: a request that stays below both needs no search."""
        bodies, times = zip(*self._all_limits, strict=True)
        return RequestLimits(min(bodies), min(times))

    def check_body(self, request: "RequestRecord", size: int) -> str | None:
        """Return what is wrong with a body of a size, if it is too large for its route."""
        if request.max_body_bytes is None:
            request.max_body_bytes = self.find(request.scope).max_body_bytes
        limit = request.max_body_bytes
        return f"A body may have {limit} bytes." if size > limit else None

    def find(self, scope: Scope) -> RequestLimits:
        """Return the limits of a request, which need not have been routed yet."""
        if len(self._all_limits) == 1:
            return self.default
        found = find_route(self._app, scope)
        return self.default if found is None else find_limits(found.route, self.default)

    @cached_property
    def _all_limits(self) -> set[RequestLimits]:
        routes = iter_routes(self._app.routes)
        return {self.default, *(find_limits(route, self.default) for route in routes)}


def find_limits(route: RouteContext, default: RequestLimits) -> RequestLimits:
    """Return the limits of a route: of each kind the innermost counts."""
    # By FastAPI's own option, which FastAPI enforces too, with another answer than a problem.
    size: int | None = getattr(route, "max_body_size", None)
    limits = default if size is None else default._replace(max_body_bytes=size)
    for dependency in find_dependencies(route):
        if isinstance(dependency.call, OwnLimits):
            if isinstance(route.original_route, WebSocketRoute):
                raise RouteError(
                    f"the websocket {route.path} has no body and no answer that request_limits() "
                    "could limit: leave it out, or put the websocket into another router"
                )
            limits = dependency.call.change(limits)
    if size is None:
        return limits
    return limits._replace(max_body_bytes=min(size, limits.max_body_bytes))
