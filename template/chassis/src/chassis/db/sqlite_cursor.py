"""A cursor for aiosqlite that goes to the connection's thread once a statement.

SQLAlchemy's goes there four times: to open a cursor, execute, fetch and close. Each time costs
more than SQLite takes to find a row.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_connection
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
)
from sqlalchemy.util import EMPTY_DICT


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a driver's cursor still knows when it is closed."""

    rows: Sequence[Any]
    description: Any
    rowcount: int
    lastrowid: int | None
    arraysize: int = 1

    def close(self) -> None:
        """Do nothing: the cursor is closed."""


_NOTHING = _Outcome((), None, -1, None)


class Cursor(AsyncAdapt_aiosqlite_cursor):
    """Executes, fetches and closes at one go."""

    __slots__ = ()

    _awaitable_cursor_close = False

    def __init__(self, adapt_connection: AsyncAdapt_dbapi_connection) -> None:
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._cursor: Any = _NOTHING
        self._soft_closed_memoized = EMPTY_DICT
        self._rows = deque()

    async def _execute_async(self, operation: Any, parameters: Any) -> Any:
        await self._run(sqlite3.Connection.execute, operation, parameters or ())

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> Any:
        await self._run(sqlite3.Connection.executemany, operation, seq_of_parameters)

    async def _run(self, method: Callable[..., sqlite3.Cursor], *arguments: Any) -> None:
        async with self._adapt_connection._execute_mutex:
            driver: Any = self._connection
            self._cursor = await driver._execute(_outcome, method, driver._conn, arguments)
            self._rows = deque(self._cursor.rows)


class Connection(AsyncAdapt_aiosqlite_connection):
    """A connection with such cursors; it does not go there for a rollback of nothing either."""

    __slots__ = ()

    _cursor_cls = Cursor

    def rollback(self) -> None:
        """Roll back; also after each commit, when the pool takes the connection back."""
        driver: Any = self._connection
        if driver._connection is None or driver.in_transaction:
            super().rollback()


def _outcome(
    method: Callable[..., sqlite3.Cursor], connection: sqlite3.Connection, arguments: Any
) -> _Outcome:
    cursor = method(connection, *arguments)
    try:
        rows = cursor.fetchall() if cursor.description else ()
        return _Outcome(rows, cursor.description, cursor.rowcount, cursor.lastrowid)
    finally:
        cursor.close()


def use_one_hop_cursors(engine: Engine) -> None:
    """Give an engine's connections such cursors."""
    connect = engine.dialect.connect

    def connect_so(*positional: Any, **named: Any) -> Connection:
        made: Any = connect(*positional, **named)
        return Connection(made.dbapi, made._connection)

    engine.dialect.connect = connect_so  # type: ignore[assignment]
