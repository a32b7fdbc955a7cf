"""Sessions: what was not committed is rolled back, and nothing is left open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from .errors import NestedWriteScopeError
from .session_guards import ReadSession, WriteSession
from .statements import current_stats

SessionFactory = async_sessionmaker[AsyncSession]

_Writer = tuple[asyncio.Task[Any], Engine]
# On SQLite, where only one session can hold the write connection.
_TASKS_WITH_WRITE_SESSION: set[_Writer | None] = set()


@dataclass(frozen=True)
class Sessions:
    """The two factories: `session_scope(sessions.write)` and `session_scope(sessions.read)`.

    An application notes beside its own whether the requests of each handler write.
    """

    write: SessionFactory
    read: SessionFactory
    plans: dict[Callable[..., Any], bool] = field(default_factory=dict, init=False, repr=False)

    @property
    def engines(self) -> dict[str, Engine]:
        """Both engines, by what they are for."""
        factories = {"write": self.write, "read": self.read}
        return {name: factory.kw["bind"].sync_engine for name, factory in factories.items()}


@asynccontextmanager
async def session_scope(factory: SessionFactory) -> AsyncIterator[AsyncSession]:
    """Open a session; at the end roll back what was not committed and return the connection.

    Raise NestedWriteScopeError for a second write scope of one task on SQLite.
    """
    managed = ManagedSession(factory)
    # A request closes those that a stream left open.
    current = current_stats.get()
    scopes = set() if current is None else current.scopes
    scopes.add(managed)
    failed = True
    try:
        yield managed.session
        failed = False
    finally:
        scopes.discard(managed)
        await managed.close(failed=failed)


class ManagedSession:
    """An open session, which its opener closes. On SQLite a task has one that writes."""

    __slots__ = ("_task", "_writer", "session")

    def __init__(self, factory: SessionFactory) -> None:
        self.session = factory()
        self._task = asyncio.current_task()
        self._writer = _find_writer(self.session, self._task)
        if self._writer in _TASKS_WITH_WRITE_SESSION:
            raise NestedWriteScopeError(
                "this task already holds a write session on SQLite, and a second one would wait "
                "for it for ever: pass the session instead of opening another"
            )
        if self._writer is not None:
            _TASKS_WITH_WRITE_SESSION.add(self._writer)

    @property
    def is_abandoned(self) -> bool:
        """Return whether the task that opened it is done, or is the one that asks."""
        task = self._task
        return task is None or task.done() or task is asyncio.current_task()

    async def close(self, *, failed: bool) -> None:
        """Roll back what was not committed and return the connection."""
        wrapped = self.session.sync_session
        only_read = isinstance(wrapped, ReadSession) and not wrapped.in_server_transaction
        try:
            if not wrapped.in_transaction() or (only_read and not failed):
                # Nothing is sent to the database.
                wrapped.close()
            else:
                # In a task of its own, which survives the cancellation of this one.
                await self.session.__aexit__(None, None, None)
        finally:
            _TASKS_WITH_WRITE_SESSION.discard(self._writer)


def _find_writer(session: AsyncSession, task: asyncio.Task[Any] | None) -> _Writer | None:
    """Return the task and the engine of a session that no other of this task may be beside."""
    bind = session.bind
    assert bind is not None
    if not isinstance(session.sync_session, WriteSession) or bind.dialect.name != "sqlite":
        return None
    return None if task is None else (task, bind.sync_engine)
