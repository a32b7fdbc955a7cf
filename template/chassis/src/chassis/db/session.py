"""Sessions: one a request, closed before the response, committed by nobody but the handler."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from fastapi import Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from sqlalchemy import Engine, event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction
from sqlalchemy.util.concurrency import in_greenlet
from starlette.requests import HTTPConnection

from .engine import READ_ONLY, create_database_engine, create_read_engine
from .errors import NestedWriteScopeError, ReadOnlySessionError, UncommittedChangesWarning
from .settings import DatabaseSettings

SessionFactory = async_sessionmaker[AsyncSession]


@dataclass(frozen=True)
class Sessions:
    """The two factories that an application opens its sessions from, as `app.state.sessions`."""

    write: SessionFactory
    read: SessionFactory

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
        sync_session_class=_ReadSession if read_only else _WriteSession,
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


async def get_db_session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """Give the request's write session. The handler commits."""
    async with _request_session(connection, writes=True) as session:
        yield session


async def get_db_read_session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """Give the request's read session; in a route that also writes, its write session."""
    async with _request_session(connection, writes=_route_writes(connection)) as session:
        yield session


# With FastAPI's default scope the session would be closed after the response was sent.
DbSession = Annotated[AsyncSession, Depends(get_db_session, scope="function")]
DbReadSession = Annotated[AsyncSession, Depends(get_db_read_session, scope="function")]


_REQUEST_SESSION = "chassis.db.session"


def _request_session(
    connection: HTTPConnection, *, writes: bool
) -> AbstractAsyncContextManager[AsyncSession]:
    given = connection.scope.get(_REQUEST_SESSION)
    return _RequestSession(connection, writes=writes) if given is None else nullcontext(given)


class _Scope:
    """A session's life; of all contexts of a request the inner one, and so no generator."""

    def __init__(self, factory: SessionFactory) -> None:
        self._session = factory()
        self._guard = _WriteScope(self._session)

    async def __aenter__(self) -> AsyncSession:
        self._guard.__enter__()
        return self._session

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and _closes_at_once(self._session.sync_session):
                await self._session.close()
            else:
                # In a task of its own, which survives the cancellation of this one.
                await self._session.__aexit__(kind, None, None)
        finally:
            self._guard.__exit__()


class _RequestSession(_Scope):
    """The session of a request; who asks again gets the same."""

    def __init__(self, connection: HTTPConnection, *, writes: bool) -> None:
        sessions: Sessions = connection.app.state.sessions
        super().__init__(sessions.write if writes else sessions.read)
        self._connection = connection

    async def __aenter__(self) -> AsyncSession:
        session = await super().__aenter__()
        self._connection.scope[_REQUEST_SESSION] = session
        return session

    async def __aexit__(self, kind: type[BaseException] | None, *others: object) -> None:
        del self._connection.scope[_REQUEST_SESSION]
        try:
            if kind is None:
                _warn_of_uncommitted_changes(self._session, self._connection)
        finally:
            await super().__aexit__(kind, *others)


def _closes_at_once(session: Session) -> bool:
    """Say whether nothing is sent to the database when a session is closed."""
    return not session.in_transaction() or session.get_bind().dialect.skip_autocommit_rollback


def _route_writes(connection: HTTPConnection) -> bool:
    """Say whether anything in the route's dependencies asks for the write session."""
    state = connection.app.state
    route = id(connection.scope["route"])
    known: dict[int, bool] | None = getattr(state, "writing_routes", None)
    if known is None or route not in known:
        state.writing_routes = known = _find_writing_routes(connection.app.routes)
    return known.setdefault(route, False)


def _find_writing_routes(routes: list[Any]) -> dict[int, bool]:
    found: dict[int, bool] = {}
    for context in iter_route_contexts(routes):
        dependant: Dependant | None = getattr(context, "dependant", None)
        if dependant is not None:
            route = id(context.original_route)
            found[route] = found.get(route, False) or _writes(dependant)
    return found


def _writes(dependant: Dependant) -> bool:
    return dependant.call is get_db_session or any(map(_writes, dependant.dependencies))


def uses_session(dependant: Dependant) -> bool:
    """Say whether anything in a route's dependencies asks for a session."""
    calls = (get_db_session, get_db_read_session)
    return dependant.call in calls or any(map(uses_session, dependant.dependencies))


def _warn_of_uncommitted_changes(session: AsyncSession, connection: HTTPConnection) -> None:
    changed = any(map(session.is_modified, session.dirty))
    if session.new or changed or session.deleted or _UNCOMMITTED in session.info:
        route = getattr(connection.scope.get("route"), "path", connection.scope["path"])
        method = connection.scope.get("method", "WEBSOCKET")
        warnings.warn(
            f"{method} {route} ended without committing what it wrote, and it was rolled back: "
            "await session.commit() in the handler",
            UncommittedChangesWarning,
            stacklevel=2,
        )


class _WriteScope:
    """Refuse a second write scope of one task on SQLite, where only one can hold the connection."""

    _open: ClassVar[set[tuple[asyncio.Task[Any], Engine]]] = set()

    def __init__(self, session: AsyncSession) -> None:
        bind = session.get_bind()
        task = asyncio.current_task()
        guarded = isinstance(session.sync_session, _WriteSession) and bind.dialect.name == "sqlite"
        self._key = (task, bind.engine) if guarded and task is not None else None

    def __enter__(self) -> None:
        if self._key in self._open:
            raise NestedWriteScopeError(
                "this task already holds a write session on SQLite, and a second one would wait "
                "for it for ever: pass the session instead of opening another"
            )
        if self._key is not None:
            self._open.add(self._key)

    def __exit__(self, *exc_info: object) -> None:
        if self._key is not None:
            self._open.discard(self._key)


class _WriteSession(Session):
    """Remembers whether something was written and not yet committed."""


class _ReadSession(Session):
    """Refuses what an AUTOCOMMIT connection must not or can't do, before the driver sees it."""


_UNCOMMITTED = "chassis_uncommitted"


@event.listens_for(_WriteSession, "after_flush")
def _note_flush(session: Session, context: UOWTransaction) -> None:
    session.info[_UNCOMMITTED] = True


@event.listens_for(_WriteSession, "do_orm_execute")
def _note_statement(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        state.session.info[_UNCOMMITTED] = True


@event.listens_for(_WriteSession, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_UNCOMMITTED, None)


@event.listens_for(_ReadSession, "before_flush")
def _refuse_flush(session: Session, context: UOWTransaction, instances: object) -> None:
    raise ReadOnlySessionError


@event.listens_for(_ReadSession, "do_orm_execute")
def _refuse_statement(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise ReadOnlySessionError
    if getattr(state.statement, "_for_update_arg", None) is not None:
        raise ReadOnlySessionError("with_for_update() needs a transaction: take DbSession")
    if state.execution_options.get("stream_results") or state.execution_options.get("yield_per"):
        raise ReadOnlySessionError("streaming needs a transaction: take DbSession")


@event.listens_for(_WriteSession, "do_orm_execute")
@event.listens_for(_ReadSession, "do_orm_execute")
def _explain_lazy_load(state: ORMExecuteState) -> None:
    """Say what to do where SQLAlchemy would say that greenlet_spawn has not been called."""
    if in_greenlet() or not (state.is_relationship_load or state.is_column_load):
        return
    owner = state.bind_mapper.class_.__name__ if state.bind_mapper else "an object"
    name = getattr(state.loader_strategy_path, "prop", f"a column of {owner}")
    raise MissingGreenlet(
        f"{name} was not loaded with its object, and an attribute can't wait for the database: "
        "name it in the query, .options(selectinload(…)) or undefer(…), "
        "or await session.refresh(object, [attribute])"
    )
