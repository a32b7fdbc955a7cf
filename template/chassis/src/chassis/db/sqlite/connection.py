"""SQLite's connection: aiosqlite's, with one visit to its thread for each statement.

SQLAlchemy visits it four times: to open a cursor, execute, fetch and close. A visit costs more than
SQLite takes to find a row, and while others are served it waits for its turn twice.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import aiosqlite

# A statement's own visit brings so many rows; what is left takes more visits, as a stream does.
FIRST_ROWS = 1000


class SQLiteConnection(aiosqlite.Connection):
    """A connection whose cursors execute, fetch and close at once, and BEGIN with a statement."""

    def __init__(self, database: str, **options: Any) -> None:
        self._options = {"database": database, **options}
        self._begins = False
        self._streams: set[Cursor] = set()
        super().__init__(self._open, iter_chunk_size=FIRST_ROWS)
        # As SQLAlchemy has it: a process that forgets to dispose an engine ends all the same.
        self._thread.daemon = True

    def begin_with_next_statement(self) -> None:
        """Begin a write transaction, in the visit of its first statement."""
        self._begins = True

    def cursor(self) -> "Cursor":  # type: ignore[override]
        """Return a cursor, without a visit."""
        return Cursor(self)

    async def commit(self) -> None:
        """Commit; without a visit if nothing was executed."""
        if not self._begins:
            await super().commit()
        self._begins = False

    async def rollback(self) -> None:
        """Roll back; without a visit if there is nothing to roll back, as after each commit."""
        self._begins = False
        if self.in_transaction:
            await super().rollback()

    async def visit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Call `work` in the connection's thread and return what it returns."""
        return await self._execute(work, *arguments)  # type: ignore[no-untyped-call]

    def execute_here(
        self, method: Callable[..., sqlite3.Cursor], statement: str, parameters: Any
    ) -> sqlite3.Cursor:
        """Execute a statement in the connection's thread, after the BEGIN that it waited for."""
        if self._begins:
            self._sqlite.execute("BEGIN IMMEDIATE")
            self._begins = False
        return method(self._sqlite, statement, parameters)

    def note_stream(self, cursor: "Cursor", *, is_open: bool) -> None:
        """Remember a cursor that has rows left, which holds a snapshot of the database."""
        (self._streams.add if is_open else self._streams.discard)(cursor)

    def close_streams(self) -> None:
        """Let go of what was left unread; nothing else may use the connection meanwhile."""
        for cursor in tuple(self._streams):
            cursor.close_here()

    def interrupt_now(self) -> None:
        """Stop the statement that runs; its thread goes on with what waits behind it."""
        with suppress(sqlite3.ProgrammingError):  # It is closed already.
            self._sqlite.interrupt()

    def _open(self) -> sqlite3.Connection:
        opened: sqlite3.Connection = sqlite3.connect(**self._options)
        self._sqlite = opened
        return opened


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
        await self._run(sqlite3.Connection.execute, statement, parameters)

    async def executemany(self, statement: str, parameters: Any) -> None:
        """Execute a statement with each of several sets of parameters."""
        await self._run(sqlite3.Connection.executemany, statement, parameters)

    async def fetchall(self) -> Sequence[Any]:
        """Return all rows that are left."""
        rows, self._rows = self._rows, ()
        if self._open is not None:
            rows = [*rows, *await self._fetch(-1)]
        return rows

    async def fetchmany(self, size: int) -> Sequence[Any]:
        """Return at most `size` of the rows that are left."""
        if not self._rows and self._open is not None:
            self._rows = await self._fetch(max(size, FIRST_ROWS))
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    async def fetchone(self) -> Any:
        """Return the next row, or None."""
        return next(iter(await self.fetchmany(1)), None)

    async def close(self) -> None:
        """Let go of rows that nobody asked for."""
        if self._open is not None:
            await self._connection.visit(self.close_here)

    def close_here(self) -> None:
        """Let go of the rows, in the connection's thread or while that has nothing to do."""
        if self._open is not None:
            self._open.close()
            self._open = None
            self._connection.note_stream(self, is_open=False)

    async def _run(
        self, method: Callable[..., sqlite3.Cursor], statement: str, parameters: Any
    ) -> None:
        await self._connection.visit(self._run_here, method, statement, parameters)

    async def _fetch(self, size: int) -> Sequence[Any]:
        rows: Sequence[Any] = await self._connection.visit(self._fetch_here, size)
        return rows

    def _run_here(self, *statement: Any) -> None:
        self._open = cursor = self._connection.execute_here(*statement)
        self._connection.note_stream(self, is_open=True)
        self.description, self.lastrowid = cursor.description, cursor.lastrowid
        if cursor.description:
            self._rows = self._fetch_here(FIRST_ROWS)
        else:
            self.close_here()
        # Of INSERT … RETURNING known only when its rows are fetched.
        self.rowcount = cursor.rowcount

    def _fetch_here(self, size: int) -> Sequence[Any]:
        assert self._open is not None
        rows = self._open.fetchmany(size) if size >= 0 else self._open.fetchall()
        if len(rows) != size:
            self.close_here()
        return rows
