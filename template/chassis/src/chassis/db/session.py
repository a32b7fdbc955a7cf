"""Sessions: one a request, closed before the response, committed by nobody but the handler."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

from fastapi import Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from sqlalchemy import Engine, Executable, event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction
from sqlalchemy.util.concurrency import in_greenlet
from starlette.requests import HTTPConnection
from starlette.types import Scope

from .engine import READ_ONLY, create_database_engine, create_read_engine
from .errors import NestedWriteScopeError, ReadOnlySessionError, UncommittedChangesWarning
from .settings import DatabaseSettings

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


async def get_db_session(connection: HTTPConnection) -> AsyncSession:
    """Give the request's write session. The handler commits."""
    return await _enter(connection, writes=True)


async def get_db_read_session(connection: HTTPConnection) -> AsyncSession:
    """Give the request's read session; in a route that also writes, its write session."""
    return await _enter(connection, writes=False)


# With FastAPI's default scope the session would be closed after the response was sent.
DbSession = Annotated[AsyncSession, Depends(get_db_session, scope="function")]
DbReadSession = Annotated[AsyncSession, Depends(get_db_read_session, scope="function")]


_REQUEST_SESSION = "chassis.db.session"
# What FastAPI ends with the handler, and what it ends with the request. A dependency with `yield`
# gets there through two generators and a cancel scope, which take a tenth of a request's time.
_HANDLER_STACK = "fastapi_function_astack"
_REQUEST_STACK = "fastapi_inner_astack"


async def _enter(connection: HTTPConnection, *, writes: bool) -> AsyncSession:
    scope = connection.scope
    given: AsyncSession | None = scope.get(_REQUEST_SESSION)
    if given is not None:
        return given
    sessions: Sessions = scope["app"].state.sessions
    needs = sessions.routes.get(id(scope["route"])) or _find_needs(sessions, scope)
    factory = sessions.write if writes or needs.writes else sessions.read
    stack: AsyncExitStack = scope[_REQUEST_STACK if needs.outlives_handler else _HANDLER_STACK]
    return await stack.enter_async_context(_RequestSession(factory, scope))


class _Scope:
    """A session's life; of all contexts of a request the inner one, and so no generator."""

    def __init__(self, factory: SessionFactory) -> None:
        self._session = factory()
        self._guard = _WriteScope(self._session)

    async def __aenter__(self) -> AsyncSession:
        self._guard.__enter__()
        return self._session

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        session = self._session
        try:
            if not session.in_transaction():
                # It holds no connection.
                session.sync_session.close()
            elif kind is None and session.get_bind().dialect.skip_autocommit_rollback:
                # Nothing is sent to the database.
                await session.close()
            else:
                # In a task of its own, which survives the cancellation of this one.
                await session.__aexit__(kind, None, None)
        finally:
            self._guard.__exit__()


class _RequestSession(_Scope):
    """The session of a request; who asks again gets the same."""

    def __init__(self, factory: SessionFactory, scope: Scope) -> None:
        super().__init__(factory)
        self._scope = scope

    async def __aenter__(self) -> AsyncSession:
        self._scope[_REQUEST_SESSION] = session = await super().__aenter__()
        return session

    async def __aexit__(self, kind: type[BaseException] | None, *others: object) -> None:
        del self._scope[_REQUEST_SESSION]
        try:
            if kind is None and self._session.in_transaction():
                _warn_of_uncommitted_changes(self._session, self._scope)
        finally:
            await super().__aexit__(kind, *others)


def _find_needs(sessions: Sessions, scope: Scope) -> Needs:
    """Look at every route: there is one that was not known."""
    for context in iter_route_contexts(scope["app"].routes):
        dependant: Dependant | None = getattr(context, "dependant", None)
        if dependant is not None:
            route = id(context.original_route)
            sessions.routes[route] = _needs(dependant, sessions.routes.get(route, Needs()))
    return sessions.routes.setdefault(id(scope["route"]), Needs())


def _needs(dependant: Dependant, needs: Needs) -> Needs:
    if dependant.call in (get_db_session, get_db_read_session):
        writes = needs.writes or dependant.call is get_db_session
        needs = Needs(writes, needs.outlives_handler or dependant.scope != "function")
    for inner in dependant.dependencies:
        needs = _needs(inner, needs)
    return needs


def uses_session(dependant: Dependant) -> bool:
    """Say whether anything in a route's dependencies asks for a session."""
    calls = (get_db_session, get_db_read_session)
    return dependant.call in calls or any(map(uses_session, dependant.dependencies))


def _warn_of_uncommitted_changes(session: AsyncSession, scope: Scope) -> None:
    changed = any(map(session.is_modified, session.dirty))
    if session.new or changed or session.deleted or _UNCOMMITTED in session.info:
        route = getattr(scope.get("route"), "path", scope["path"])
        method = scope.get("method", "WEBSOCKET")
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
        self._key: tuple[asyncio.Task[Any], Engine] | None = None
        bind, task = session.bind, asyncio.current_task()
        assert bind is not None
        writes = isinstance(session.sync_session, _WriteSession)
        if writes and bind.dialect.name == "sqlite" and task is not None:
            self._key = task, bind.sync_engine

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


class _Session(Session):
    """Looks at each statement before it runs.

    A listener of `do_orm_execute` would make SQLAlchemy prepare each statement twice.
    """

    def execute(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        self._look_at(statement, options)
        return super().execute(statement, *arguments, **options)

    def scalar(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        self._look_at(statement, options)
        return super().scalar(statement, *arguments, **options)

    def scalars(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        self._look_at(statement, options)
        return super().scalars(statement, *arguments, **options)

    def _look_at(self, statement: Any, options: Mapping[str, Any]) -> None:
        # Only a lazy load comes from outside; the listener can tell which attribute it is for.
        if not in_greenlet():
            event.listen(self, "do_orm_execute", _explain_lazy_load)


class _WriteSession(_Session):
    """Remembers whether something was written and not yet committed."""

    def _look_at(self, statement: Any, options: Mapping[str, Any]) -> None:
        super()._look_at(statement, options)
        if getattr(statement, "is_dml", False):
            self.info[_UNCOMMITTED] = True


class _ReadSession(_Session):
    """Refuses what an AUTOCOMMIT connection must not or can't do, before the driver sees it."""

    def _look_at(self, statement: Any, options: Mapping[str, Any]) -> None:
        super()._look_at(statement, options)
        if not isinstance(statement, Executable):
            return
        if statement.is_dml:
            raise ReadOnlySessionError
        if getattr(statement, "_for_update_arg", None) is not None:
            raise ReadOnlySessionError("with_for_update() needs a transaction: take DbSession")
        for given in (options.get("execution_options", {}), statement.get_execution_options()):
            if given.get("stream_results") or given.get("yield_per"):
                raise ReadOnlySessionError("streaming needs a transaction: take DbSession")


_UNCOMMITTED = "chassis_uncommitted"


@event.listens_for(_WriteSession, "after_flush")
def _note_flush(session: Session, context: UOWTransaction) -> None:
    session.info[_UNCOMMITTED] = True


@event.listens_for(_WriteSession, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_UNCOMMITTED, None)


@event.listens_for(_ReadSession, "before_flush")
def _refuse_flush(session: Session, context: UOWTransaction, instances: object) -> None:
    raise ReadOnlySessionError


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
