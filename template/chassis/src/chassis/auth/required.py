"""What `APP_AUTH_REQUIRED` asks of each route: a caller, or the mark that everybody may use it."""

from collections.abc import Iterator, Sequence

from fastapi import FastAPI
from fastapi.requests import HTTPConnection
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from ..db.route_dependencies import find_dependencies
from .callers import CallerError, get_caller, public, require_caller


class PublicApp:
    """Marks a mounted application that everybody may use: `PublicApp(StaticFiles(…))`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        await self._app(scope, receive, send)


class CallerApp(PublicApp):
    """Lets only callers use a mounted application: `CallerApp(StaticFiles(…))`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of a caller. Raise ProblemError 401 for any other."""
        await get_caller(HTTPConnection(scope))
        await super().__call__(scope, receive, send)


def find_public_endpoints(app: FastAPI, own_routes: Sequence[BaseRoute]) -> frozenset[object]:
    """Return the functions of the routes that everybody may use; those of the chassis are known.

    Raise CallerError for a route where nothing asks for a caller, and for a function that is in
    one route for everybody and in another one not.
    """
    endpoints: dict[bool, set[object]] = {True: set(), False: set()}
    for route, path in _iter_routes(app, app.routes, ""):
        if any(route.original_route is own for own in own_routes):
            continue
        calls = [dependency.call for dependency in find_dependencies(route)]
        is_public = any(call is public.dependency for call in calls)
        if not is_public and not any(call in (get_caller, require_caller) for call in calls):
            raise CallerError(f"APP_AUTH_REQUIRED: nothing asks for a caller at {path}: {_ADVICE}")
        endpoints[is_public].add(route.endpoint)
    for endpoint in endpoints[True] & endpoints[False]:
        name = getattr(endpoint, "__name__", "a frontend")
        raise CallerError(
            f"APP_AUTH_REQUIRED: {name} is in a route that is public and in one that is not: "
            "write a function for each"
        )
    return frozenset(endpoints[True])


_ADVICE = (
    "a FastAPI that is mounted has dependencies=[requires()] or [public] of its own, and what else "
    "is mounted is CallerApp(…) or PublicApp(…), all of them from chassis.auth"
)


def _iter_routes(
    app: ASGIApp | None, routes: Sequence[BaseRoute], path: str
) -> Iterator[tuple[RouteContext, str]]:
    """Yield routes with their whole paths, without those of docs and of marked mounts."""
    docs = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")
    hidden = {getattr(app, name) for name in docs} if isinstance(app, FastAPI) else set()
    for context in iter_route_contexts(routes):
        route, whole = context.original_route, f"{path}{context.path}"
        below = getattr(route, "routes", None) if isinstance(route, Mount) else None
        if below:
            yield from _iter_routes(getattr(route, "app", None), below, whole)
        elif not isinstance(getattr(route, "app", None), PublicApp) and context.path not in hidden:
            yield context, whole
