"""The one session of a request: planned at the start, closed before the answer."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends
from fastapi.routing import RouteContext
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Scope

from .errors import SessionPlanError
from .route_dependencies import Dependency, find_dependencies, iter_routes
from .session_guards import warn_of_uncommitted_changes
from .sessions import ManagedSession, Sessions
from .statements import StatementStats

Endpoint = Callable[..., Any]


class SessionOwner(StatementStats):
    """What a request has of the database: its statements, and its one session."""

    __slots__ = ("app", "managed_session", "scope")

    def __init__(self, scope: Scope) -> None:
        self.count = 0
        self.seconds = 0.0
        self.scopes = set()
        self.scope = scope
        self.app: Starlette = scope["app"]
        self.managed_session: ManagedSession | None = None

    @property
    def sessions(self) -> Sessions:
        """The service's factories. Raise RuntimeError if its lifespan does not run."""
        try:
            sessions: Sessions = self.app.state.sessions
        except AttributeError:
            raise RuntimeError(
                "the application is not started, so that it has no sessions: `async with "
                "app.router.lifespan_context(app):` starts it, as do the test kit's client and "
                "`with TestClient(app) as client:`"
            ) from None
        return sessions

    def open_session(self, endpoint: Endpoint, *, writes: bool) -> AsyncSession:
        """Return the request's session; whoever asks again gets the same."""
        if self.managed_session is None:
            sessions = self.sessions
            if endpoint not in sessions.plans:
                self._plan_late(sessions, endpoint)
            factory = sessions.write if writes or sessions.plans[endpoint] else sessions.read
            self.managed_session = ManagedSession(factory)
        return self.managed_session.session

    async def close_session(self, *, failed: bool) -> None:
        """Roll back what was not committed, with a warning unless it failed, and close."""
        managed, self.managed_session = self.managed_session, None
        if managed is not None:
            try:
                if not failed and managed.session.in_transaction():
                    warn_of_uncommitted_changes(
                        managed.session, self.name, self.scope.get("endpoint")
                    )
            finally:
                await managed.close(failed=failed)

    async def close_scopes(self) -> None:
        """Close the sessions of streams that stopped at a `yield`, as when the client goes.

        Only the garbage collector would end their generators, and it returns no connection.
        """
        for managed in [each for each in self.scopes if each.is_abandoned]:
            await managed.close(failed=True)

    def _plan_late(self, sessions: Sessions, endpoint: Endpoint) -> None:
        """Plan all routes again: one was added after the start."""
        sessions.plans.update(plan_routes(self.app.routes))
        if self.scope["type"] == "websocket":
            handler = Dependency(endpoint, None, None).name
            raise SessionPlanError(f"the websocket of {handler} {_WEBSOCKET_ADVICE}")
        sessions.plans.setdefault(endpoint, False)


async def get_db_session(connection: HTTPConnection) -> AsyncSession:
    """Return the request's write session. The handler commits."""
    owner: SessionOwner = connection.scope["chassis"]
    return owner.open_session(connection.scope["endpoint"], writes=True)


async def get_db_read_session(connection: HTTPConnection) -> AsyncSession:
    """Return the request's read session; in a route that also writes, its write session."""
    owner: SessionOwner = connection.scope["chassis"]
    return owner.open_session(connection.scope["endpoint"], writes=False)


async def get_db_sessions(connection: HTTPConnection) -> Sessions:
    """Return the service's factories, for sessions that outlive the request or repeat its work."""
    owner: SessionOwner = connection.scope["chassis"]
    return owner.sessions


# The scope makes FastAPI refuse a dependency whose code after its `yield` would use it too late.
DbSession = Annotated[AsyncSession, Depends(get_db_session, scope="function")]
DbReadSession = Annotated[AsyncSession, Depends(get_db_read_session, scope="function")]
DbSessions = Annotated[Sessions, Depends(get_db_sessions)]


def plan_routes(routes: Sequence[BaseRoute]) -> dict[Endpoint, bool]:
    """Return each handler that uses a session, and whether its requests write.

    Where anything in a route writes, all of it does. Raise SessionPlanError for a route that can't
    be served with one session, closed in time.
    """
    plans: dict[Endpoint, bool] = {}
    for context in iter_routes(routes):
        needs = [each for each in find_dependencies(context) if each.call in _OPENERS]
        if needs and context.endpoint is not None:
            _check_route(context, context.endpoint, needs)
            writes = any(each.call is get_db_session for each in needs)
            plans[context.endpoint] = writes or plans.get(context.endpoint, False)
    return plans


def uses_database(route: RouteContext) -> bool:
    """Return whether a route takes a session, or what opens sessions."""
    return any(each.call in (*_OPENERS, get_db_sessions) for each in find_dependencies(route))


_OPENERS = (get_db_session, get_db_read_session)
_WEBSOCKET_ADVICE = (
    "takes a session, which would hold a connection for as long as the socket is open: take "
    "DbSessions, and open session_scope(sessions.read), or (sessions.write), for each message"
)


def _check_route(context: RouteContext, endpoint: Endpoint, needs: list[Dependency]) -> None:
    if isinstance(context.original_route, WebSocketRoute):
        socket = f"the websocket {context.path}"
        raise SessionPlanError(f"{_name_taker(needs[0], socket)} {_WEBSOCKET_ADVICE}")
    if getattr(endpoint, "__hash__", None) is None:
        raise SessionPlanError(
            f"the handler of {context.path} has no hash, so that its session can't be planned: "
            "make it a function"
        )
    function = inspect.unwrap(endpoint)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if inspect.isfunction(function) and not is_async and any(not need.parent for need in needs):
        raise SessionPlanError(
            f"{function.__name__}, the handler of {context.path}, is a def and takes a session, "
            "whose methods have to be awaited: make it an async def"
        )
    for need in needs:
        taker = need.parent or Dependency(endpoint, None, None)
        if taker.ends_with_request:
            advice = f'say Depends({taker.name}, scope="function")'
            if need.parent is None:
                advice = "take DbSessions, and open session_scope(sessions.read)"
            name = _name_taker(need, context.path)
            raise SessionPlanError(
                f"{name} would go on after its `yield` when the response was sent and its session "
                f"is closed: {advice}"
            )


def _name_taker(need: Dependency, route: str | None) -> str | None:
    """Name what takes a session for a route: the route itself, or a dependency of it."""
    return route if need.parent is None else f"{need.parent.name}, a dependency of {route},"
