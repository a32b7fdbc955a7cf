"""Sessions: one a request, closed before the response, committed by nobody but the handler."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from fastapi import Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from .address.settings import DatabaseSettings
from .engines import READ_ONLY, create_database_engine, create_read_engine
from .errors import NestedWriteScopeError
from .session_guards import ReadSession, RequestRecord, WriteSession, warn_of_uncommitted_changes

SessionFactory = async_sessionmaker[AsyncSession]


class Needs(NamedTuple):
    """What the dependencies of a route ask of its session."""

    writes: bool = False
    outlives_handler: bool = False


@dataclass(frozen=True)
class Sessions:
    """The two factories that an application opens its sessions from, as `app.state.sessions`."""

    write: SessionFactory
    read: SessionFactory
    # By the identity of a route, as far as one was looked at.
    routes: dict[int, Needs] = field(default_factory=dict, repr=False)

    @property
    def engines(self) -> dict[str, Engine]:
        """Both engines, by what they are for."""
        factories = {"write": self.write, "read": self.read}
        return {name: factory.kw["bind"].sync_engine for name, factory in factories.items()}


@asynccontextmanager
async def open_sessions(settings: DatabaseSettings) -> AsyncIterator[Sessions]:
    """Make both engines and their factories; dispose the engines at the end."""
    engine = create_database_engine(settings)
    if settings.database_target.backend == "custom":
        read_engine = engine.execution_options(**{READ_ONLY: True})
    else:
        read_engine = create_read_engine(settings)
    try:
        yield Sessions(
            write=create_session_factory(settings, engine),
            read=create_session_factory(settings, read_engine),
        )
    finally:
        await read_engine.dispose()
        await engine.dispose()


def create_session_factory(
    settings: DatabaseSettings, engine: AsyncEngine, *, autoflush: bool = False
) -> SessionFactory:
    """Build the factory of an engine's sessions; those of a read engine refuse to write."""
    read_only = engine.sync_engine.get_execution_options().get(READ_ONLY, False)
    return async_sessionmaker(
        engine,
        sync_session_class=ReadSession if read_only else WriteSession,
        autoflush=autoflush,
        expire_on_commit=False,
        close_resets_only=False,
    )


@asynccontextmanager
async def session_scope(factory: SessionFactory) -> AsyncIterator[AsyncSession]:
    """Open a session; at the end roll back what was not committed and return the connection.

    Raises NestedWriteScopeError for a second write scope of one task on SQLite.
    """
    async with _Scope(factory) as session:
        yield session


async def get_db_session(connection: HTTPConnection) -> AsyncSession:
    """Return the request's write session. The handler commits."""
    return await _enter(connection, writes=True)


async def get_db_read_session(connection: HTTPConnection) -> AsyncSession:
    """Return the request's read session; in a route that also writes, its write session."""
    return await _enter(connection, writes=False)


# With FastAPI's default scope the session would be closed after the response was sent.
DbSession = Annotated[AsyncSession, Depends(get_db_session, scope="function")]
DbReadSession = Annotated[AsyncSession, Depends(get_db_read_session, scope="function")]


# What FastAPI ends with the handler, and what it ends with the request. A dependency with `yield`
# gets there through two generators and a cancel scope, which take a tenth of a request's time.
_HANDLER_STACK = "fastapi_function_astack"
_REQUEST_STACK = "fastapi_inner_astack"


async def _enter(connection: HTTPConnection, *, writes: bool) -> AsyncSession:
    scope = connection.scope
    request: RequestRecord = scope["chassis"]
    if request.session is not None:
        return request.session
    sessions: Sessions = request.app.state.sessions
    needs = sessions.routes.get(id(scope["route"])) or _find_needs(sessions, request)
    factory = sessions.write if writes or needs.writes else sessions.read
    stack: AsyncExitStack = scope[_REQUEST_STACK if needs.outlives_handler else _HANDLER_STACK]
    return await stack.enter_async_context(_RequestSession(factory, request))


_Writer = tuple[asyncio.Task[Any], Engine]
# The tasks that hold a write session on SQLite, where only one can hold the connection.
_WRITERS: set[_Writer | None] = set()


class _Scope:
    """A session's life; of all contexts of a request the inner one, and so no generator."""

    def __init__(self, factory: SessionFactory) -> None:
        self._session = session = factory()
        self._writer: _Writer | None = None
        bind, task = session.bind, asyncio.current_task()
        assert bind is not None
        writes = isinstance(session.sync_session, WriteSession)
        if writes and bind.dialect.name == "sqlite" and task is not None:
            self._writer = task, bind.sync_engine

    async def __aenter__(self) -> AsyncSession:
        if self._writer in _WRITERS:
            raise NestedWriteScopeError(
                "this task already holds a write session on SQLite, and a second one would wait "
                "for it for ever: pass the session instead of opening another"
            )
        if self._writer is not None:
            _WRITERS.add(self._writer)
        return self._session

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        session = self._session
        try:
            if not session.in_transaction():
                # It holds no connection.
                session.sync_session.close()
            elif kind is None and session.get_bind().dialect.skip_autocommit_rollback:
                # At most the end of a stream's transaction is sent to the database.
                await session.close()
            else:
                # In a task of its own, which survives the cancellation of this one.
                await session.__aexit__(kind, None, None)
        finally:
            _WRITERS.discard(self._writer)


class _RequestSession(_Scope):
    """The session of a request; who asks again gets the same."""

    def __init__(self, factory: SessionFactory, request: RequestRecord) -> None:
        super().__init__(factory)
        self._request = request

    async def __aenter__(self) -> AsyncSession:
        self._request.session = session = await super().__aenter__()
        return session

    async def __aexit__(self, kind: type[BaseException] | None, *others: object) -> None:
        self._request.session = None
        try:
            if kind is None and self._session.in_transaction():
                warn_of_uncommitted_changes(self._session, self._request)
        finally:
            await super().__aexit__(kind, *others)


def _find_needs(sessions: Sessions, request: RequestRecord) -> Needs:
    """Look at every route: there is one that was not known."""
    for context in _iter_routes(request.app.routes):
        dependant: Dependant | None = getattr(context, "dependant", None)
        if dependant is not None:
            route = id(context.original_route)
            sessions.routes[route] = _needs(dependant, sessions.routes.get(route, Needs()))
    return sessions.routes.setdefault(id(request.scope["route"]), Needs())


def _iter_routes(routes: Sequence[BaseRoute]) -> Iterator[RouteContext]:
    """Yield the routes of an application and of all that is mounted in it."""
    for context in iter_route_contexts(routes):
        yield context
        yield from _iter_routes(getattr(context.original_route, "routes", None) or ())


def _needs(dependant: Dependant, needs: Needs) -> Needs:
    if dependant.call in (get_db_session, get_db_read_session):
        writes = needs.writes or dependant.call is get_db_session
        needs = Needs(writes, needs.outlives_handler or dependant.scope != "function")
    for inner in dependant.dependencies:
        needs = _needs(inner, needs)
    return needs


def uses_session(dependant: Dependant) -> bool:
    """Return whether anything in a route's dependencies asks for a session."""
    calls = (get_db_session, get_db_read_session)
    return dependant.call in calls or any(map(uses_session, dependant.dependencies))
