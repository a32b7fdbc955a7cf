"""The cursor that goes to SQLite's thread once: it answers as SQLAlchemy's own does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql import column, table, text

from chassis.db.sqlite_connection import FIRST_ROWS, SQLiteConnection

pytestmark = pytest.mark.anyio

PART = table("part", column("id"), column("name"), column("data"))
NAMES = ["bolt", "nut", None, "ä", "washer"]


def make_engine(file: Path, *, one_hop: bool) -> AsyncEngine:
    options = {"async_creator_fn": SQLiteConnection} if one_hop else {}
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


async def test_it_goes_to_the_thread_once_a_statement(
    connection: AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(connection)
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    execute, hops = driver._execute, []

    async def count(function: Any, *arguments: Any, **named: Any) -> Any:
        hops.append(function)
        return await execute(function, *arguments, **named)

    monkeypatch.setattr(driver, "_execute", count)
    for _ in range(3):
        assert len((await connection.execute(PART.select())).all()) == len(NAMES)
    await connection.rollback()
    assert len(hops) == 3
