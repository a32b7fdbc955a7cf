"""The connection that visits SQLite's thread once a statement: it answers as aiosqlite's does."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chassis_stock import threads_ended
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql import column, table, text

from chassis.db import DatabaseSettings, create_database_engine
from chassis.db.borrowed import CREATOR_ARGUMENT, may_use
from chassis.db.sqlite.connection import FIRST_ROWS, SQLiteConnection, open_connection

pytestmark = pytest.mark.anyio

PART = table("part", column("id"), column("name"), column("data"))
NAMES = ["bolt", "nut", None, "ä", "washer"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def settings(file: Path) -> DatabaseSettings:
    return DatabaseSettings(database_sqlite_path=file, database_sqlite_busy_timeout=1)


def make_engine(file: Path, *, one_hop: bool) -> AsyncEngine:
    options = {CREATOR_ARGUMENT: open_connection} if one_hop else {}
    return create_async_engine(f"sqlite+aiosqlite:///{file}", connect_args=options)


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[AsyncConnection]:
    engine = make_engine(tmp_path / "one.db", one_hop=True)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def fill(connection: AsyncConnection) -> None:
    await connection.execute(text("CREATE TABLE part (id INTEGER PRIMARY KEY, name, data)"))
    rows = [{"name": name, "data": bytes([number])} for number, name in enumerate(NAMES)]
    await connection.execute(PART.insert(), rows)
    await connection.commit()


async def error_of(connection: AsyncConnection, statement: str) -> tuple[str, str]:
    with pytest.raises(DBAPIError) as raised:
        await connection.execute(text(statement))
    await connection.rollback()
    return type(raised.value).__name__, getattr(raised.value.orig, "sqlite_errorname", "")


async def observe(connection: AsyncConnection) -> list[Any]:
    """Do what can be done with a cursor, and tell what came of it."""
    await fill(connection)
    seen: list[Any] = []
    result = await connection.execute(PART.select().order_by(PART.c.id))
    seen += [list(result.keys()), result.fetchone(), result.fetchmany(2), result.fetchall()]
    seen += [(await connection.execute(PART.select().where(PART.c.id < 0))).all()]
    inserted = await connection.execute(PART.insert().values(name="new"))
    seen += [inserted.lastrowid, inserted.rowcount, inserted.returns_rows]
    changed = await connection.execute(PART.update().values(data=b"x").where(PART.c.id > 2))
    seen += [changed.rowcount]
    gone = PART.delete().where(PART.c.id > 4).returning(PART.c.id)
    seen += [sorted((await connection.execute(gone)).scalars())]
    await connection.rollback()
    seen += [(await connection.execute(text("SELECT count(*), max(name) FROM part"))).one()]
    seen += [(await connection.exec_driver_sql("PRAGMA table_info(part)")).all()]
    seen += [
        await error_of(connection, "INSERT INTO part (id) VALUES (1)"),
        await error_of(connection, "SELECT nothing FROM part"),
        await error_of(connection, "SELEKT"),
    ]
    streamed = await connection.stream(PART.select().order_by(PART.c.id))
    seen += [[row.name async for row in streamed]]
    return seen


async def test_it_answers_as_the_cursor_of_sqlalchemy(
    connection: AsyncConnection, tmp_path: Path
) -> None:
    plain = make_engine(tmp_path / "plain.db", one_hop=False)
    async with plain.connect() as other:
        assert await observe(connection) == await observe(other)
    await plain.dispose()


async def test_a_connection_that_is_closed_may_be_interrupted(tmp_path: Path) -> None:
    connection = await open_connection(str(tmp_path / "app.db"))
    await connection.close()

    connection.handle.interrupt_now()


async def count_visits(connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    execute, visits = driver._execute, []

    async def count(function: Any, *arguments: Any, **named: Any) -> Any:
        visits.append(function)
        return await execute(function, *arguments, **named)

    monkeypatch.setattr(driver, "_execute", count)
    return visits


async def test_it_visits_the_thread_once_a_statement(
    connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(connection)
    visits = await count_visits(connection, monkeypatch)
    for _ in range(3):
        assert len((await connection.execute(PART.select())).all()) == len(NAMES)
    await connection.rollback()
    assert len(visits) == 3


MANY = text("""
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
    SELECT i FROM n
""")


@pytest.mark.parametrize("rows", [FIRST_ROWS - 1, FIRST_ROWS, FIRST_ROWS + 1, 3 * FIRST_ROWS])
async def test_a_large_result_is_whole(
    connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    visits = await count_visits(connection, monkeypatch)
    result = await connection.execute(MANY, {"rows": rows})
    assert result.scalars().all() == list(range(1, rows + 1))
    assert len(visits) == (1 if rows < FIRST_ROWS else 2)


async def test_a_stream_fetches_as_it_goes(
    connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = await count_visits(connection, monkeypatch)
    result = await connection.stream(MANY, {"rows": 5 * FIRST_ROWS})
    assert [row.i async for row in result] == list(range(1, 5 * FIRST_ROWS + 1))
    assert len(visits) >= 5


@pytest.mark.skipif(
    not (may_use("sqlalchemy") and may_use("aiosqlite")),
    reason="SQLAlchemy's own connection takes more",
)
async def test_a_write_transaction_takes_a_visit_a_statement_and_one_to_commit(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_database_engine(settings)
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TABLE part (id INTEGER PRIMARY KEY, name, data)"))
        await connection.commit()
        visits = await count_visits(connection, monkeypatch)
        await connection.execute(PART.insert().values(name="bolt"))
        await connection.execute(PART.insert().values(name="nut"))
        await connection.commit()
        await connection.rollback()
    assert len(visits) == 3
    await engine.dispose()


async def test_a_transaction_whose_begin_failed_begins_with_its_next_statement(
    settings: DatabaseSettings, file: Path
) -> None:
    engine = create_database_engine(settings)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE part (id INTEGER PRIMARY KEY, name, data)")
        other.execute("BEGIN IMMEDIATE")
        async with engine.connect() as connection:
            with pytest.raises(OperationalError, match="locked"):
                await connection.execute(PART.insert().values(name="bolt"))
            other.execute("ROLLBACK")
            await connection.execute(PART.insert().values(name="bolt"))
            await connection.rollback()
        assert other.execute("SELECT count(*) FROM part").fetchone() == (0,)
    await engine.dispose()


async def test_a_connection_whose_opening_is_cancelled_is_closed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    open_file = SQLiteConnection._open

    def open_and_note(connection: SQLiteConnection) -> sqlite3.Connection:
        opened.append(open_file(connection))
        return opened[-1]

    monkeypatch.setattr(SQLiteConnection, "_open", open_and_note)
    async with threads_ended():
        opening = asyncio.create_task(open_connection(str(file), check_same_thread=False))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
