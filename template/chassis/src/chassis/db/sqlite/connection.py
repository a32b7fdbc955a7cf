"""SQLite's connection: aiosqlite's, with one visit to its thread for each statement.

SQLAlchemy visits it four times: to open a cursor, execute, fetch and close. A visit costs more than
SQLite takes to find a row, and while others are served it waits for its turn twice.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, NamedTuple, Self

import aiosqlite

from ..borrowed import CREATOR_ARGUMENT, may_use

# A statement's own visit brings so many rows; what is left takes more visits, as a stream does.
FIRST_ROWS = 1000


def choose_connect_arguments() -> dict[str, Any]:
    """Return what opens a connection of one visit; with an untested release, SQLAlchemy's own."""
    if may_use("sqlalchemy") and may_use("aiosqlite"):
        return {CREATOR_ARGUMENT: open_connection}
    return {"factory": SQLiteHandle}


async def open_connection(database: str, **options: Any) -> "SQLiteConnection":
    """Open a connection whose thread does not keep a process alive that forgets to close it."""
    made: list[SQLiteConnection] = []
    # A thread is a daemon if the thread that makes it is one.
    maker = Thread(target=lambda: made.append(SQLiteConnection(database, **options)), daemon=True)
    maker.start()
    maker.join()
    opening = asyncio.ensure_future(made[0])
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        # aiosqlite would forget the file that its thread opens meanwhile, and leave it open.
        opening.add_done_callback(_close_unused)
        raise
    return made[0]


def _close_unused(opening: asyncio.Future[aiosqlite.Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().stop()


async def find_handle(driver: aiosqlite.Connection) -> "SQLiteHandle":
    """Return the connection of sqlite3 that is inside of aiosqlite's."""
    handle: SQLiteHandle = await _visit_thread(driver, lambda handle: handle)
    return handle


def _visit_thread(
    driver: aiosqlite.Connection, work: Callable[..., Any], *arguments: Any
) -> Awaitable[Any]:
    """Call `work` with the handle, in its thread, and return what it returns.

    aiosqlite calls `execute(…).fetchall()` of the handle there, and has no other public way.
    """
    return driver.execute_fetchall(work, arguments)


class _Returned(NamedTuple):
    value: Any

    def fetchall(self) -> Any:
        return self.value


class SQLiteHandle(sqlite3.Connection):
    """A connection of sqlite3 that can begin with its next statement, and ends what is unread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Whether a write transaction begins in the visit of its first statement, the next one.
        self.begins = False
        # Those that have rows left, and so hold a snapshot of the database.
        self.streams: set[Cursor | _PlainCursor] = set()

    def begin(self) -> None:
        """Begin the transaction that waits for its first statement, if any."""
        if self.begins:
            super().cursor().execute("BEGIN IMMEDIATE")
            self.begins = False

    def execute(self, statement: Any, parameters: Any = ()) -> Any:
        """Execute a statement; or call a function with this connection."""
        if callable(statement):
            return _Returned(statement(self, *parameters))
        return self.cursor().execute(statement, parameters)

    def cursor(self, factory: Any = None) -> sqlite3.Cursor:  # type: ignore[override]
        """Return a cursor, by default for SQLAlchemy's own connection."""
        return super().cursor(factory or _PlainCursor)

    def commit(self) -> None:
        self.begins = False
        super().commit()

    def rollback(self) -> None:
        self.begins = False
        super().rollback()

    def close_streams(self) -> None:
        """Let go of what was left unread; nothing else may use the connection meanwhile."""
        for cursor in tuple(self.streams):
            cursor.close_here()

    def interrupt_now(self) -> None:
        """Stop the statement that runs; its thread goes on with what waits behind it."""
        with suppress(sqlite3.ProgrammingError):  # It is closed already.
            self.interrupt()


class _PlainCursor(sqlite3.Cursor):
    connection: SQLiteHandle

    def execute(self, *arguments: Any) -> Self:
        self.connection.begin()
        self.connection.streams.add(self)
        return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Self:
        self.connection.begin()
        return super().executemany(*arguments)

    def close(self) -> None:
        self.connection.streams.discard(self)
        super().close()

    close_here = close


class SQLiteConnection(aiosqlite.Connection):
    """A connection whose cursors execute, fetch and close at once."""

    def __init__(self, database: str, **options: Any) -> None:
        self._options = {"database": database, "factory": SQLiteHandle, **options}
        super().__init__(self._open, iter_chunk_size=FIRST_ROWS)

    def cursor(self) -> "Cursor":  # type: ignore[override]
        """Return a cursor, without a visit."""
        return Cursor(self)

    async def commit(self) -> None:
        """Commit; without a visit if nothing was executed."""
        if self.handle.begins:
            self.handle.begins = False
        else:
            await super().commit()

    async def rollback(self) -> None:
        """Roll back; without a visit if there is nothing to roll back, as after each commit."""
        self.handle.begins = False
        if self.in_transaction:
            await super().rollback()

    def _open(self) -> sqlite3.Connection:
        handle: SQLiteHandle = sqlite3.connect(**self._options)
        self.handle = handle
        return handle


class Cursor:
    """What SQLAlchemy asks of a driver's cursor; small results come with the statement."""

    arraysize = 1
    description: Any = None
    rowcount = -1
    lastrowid: int | None = None

    def __init__(self, connection: SQLiteConnection) -> None:
        self._connection = connection
        self._open: sqlite3.Cursor | None = None
        self._rows: Sequence[Any] = ()

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Any = ()) -> None:
        """Execute a statement and fetch its first rows."""
        await _visit_thread(
            self._connection, self._run_here, sqlite3.Cursor.execute, statement, parameters
        )

    async def executemany(self, statement: str, parameters: Any) -> None:
        """Execute a statement with each of several sets of parameters."""
        await _visit_thread(
            self._connection, self._run_here, sqlite3.Cursor.executemany, statement, parameters
        )

    async def fetchall(self) -> Sequence[Any]:
        """Return all rows that are left."""
        rows, self._rows = self._rows, ()
        if self._open is not None:
            rows = [*rows, *await _visit_thread(self._connection, self._fetch_here, -1)]
        return rows

    async def fetchmany(self, size: int) -> Sequence[Any]:
        """Return at most `size` of the rows that are left."""
        if not self._rows and self._open is not None:
            more = max(size, FIRST_ROWS)
            self._rows = await _visit_thread(self._connection, self._fetch_here, more)
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    async def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(iter(await self.fetchmany(1)), None)

    async def close(self) -> None:
        """Let go of rows that nobody asked for."""
        if self._open is not None:
            await _visit_thread(self._connection, self.close_here)

    def close_here(self, handle: SQLiteHandle | None = None) -> None:
        """Let go of the rows, in the connection's thread or while that has nothing to do."""
        if self._open is not None:
            self._open.close()
            self._open = None
            self._connection.handle.streams.discard(self)

    def _run_here(
        self,
        handle: SQLiteHandle,
        method: Callable[..., sqlite3.Cursor],
        statement: str,
        parameters: Any,
    ) -> None:
        handle.begin()
        self._open = cursor = method(handle.cursor(sqlite3.Cursor), statement, parameters)
        handle.streams.add(self)
        self.description, self.lastrowid = cursor.description, cursor.lastrowid
        if cursor.description:
            self._rows = self._fetch_here(handle, FIRST_ROWS)
        else:
            self.close_here()
        # Of INSERT … RETURNING known only when its rows are fetched.
        self.rowcount = cursor.rowcount

    def _fetch_here(self, handle: SQLiteHandle, size: int) -> Sequence[Any]:
        assert self._open is not None
        rows = self._open.fetchmany(size) if size >= 0 else self._open.fetchall()
        if len(rows) != size:
            self.close_here()
        return rows
