"""Streams: rows that are read as a client takes them, by a session that holds up no writer."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest
from chassis_stock import Item, create_stock, create_tables, started
from fastapi import APIRouter
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from chassis import ChassisSettings
from chassis.db import DbSessions, create_read_engine, create_session_factory, session_scope
from chassis.db.sessions import SessionFactory

pytestmark = pytest.mark.anyio

ROWS = 3000
STREAM = select(Item.id).order_by(Item.id).execution_options(yield_per=100)


@pytest.fixture
async def filled(settings: ChassisSettings, session: AsyncSession) -> AsyncSession:
    create_tables(settings)
    await session.execute(insert(Item), [{"name": f"item {n}"} for n in range(ROWS)])
    await session.commit()
    return session


@pytest.fixture
async def read_engine(settings: ChassisSettings) -> AsyncIterator[AsyncEngine]:
    engine = create_read_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
def readers(settings: ChassisSettings, read_engine: AsyncEngine) -> SessionFactory:
    return create_session_factory(settings, read_engine)


async def test_a_read_session_streams_one_snapshot_while_others_write(
    filled: AsyncSession, readers: SessionFactory
) -> None:
    async with session_scope(readers) as reader:
        assert await reader.scalar(select(Item.name).limit(1))
        seen = 0
        async for _ in await reader.stream(STREAM):
            if seen == 150:
                await filled.execute(insert(Item).values(name="late"))
                await filled.commit()
            seen += 1
        assert seen == ROWS


async def test_two_streams_of_one_session_run_side_by_side(
    filled: AsyncSession, readers: SessionFactory
) -> None:
    async with session_scope(readers) as reader:
        one, other = await reader.stream(STREAM), await reader.stream(STREAM)
        assert [row async for row in one] == [row async for row in other]


async def test_a_stream_that_is_left_holds_nothing(
    filled: AsyncSession, readers: SessionFactory, settings: ChassisSettings
) -> None:
    left: list[Any] = []
    for _ in range(3):
        async with session_scope(readers) as reader:
            left.append(await reader.stream(STREAM))
            await anext(aiter(left[-1]))
    await filled.execute(update(Item).values(quantity=1))
    await filled.commit()
    if settings.database_target.backend == "sqlite":
        with closing(sqlite3.connect(settings.database_target.url.database or "")) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        return
    idle = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
    )
    assert await filled.scalar(idle) == 0


async def test_a_session_that_streamed_reads_on_in_autocommit(
    filled: AsyncSession, readers: SessionFactory
) -> None:
    async with session_scope(readers) as reader:
        assert len([row async for row in await reader.stream(STREAM)]) == ROWS
    async with session_scope(readers) as reader:
        raw = await (await reader.connection()).get_raw_connection()
        assert raw.driver_connection is not None
        await reader.execute(select(Item.id).limit(1))
        in_transaction: Any = getattr(raw.driver_connection, "is_in_transaction", None)
        assert in_transaction is None or not in_transaction()


async def test_a_transaction_that_a_reader_asks_for_ends_with_its_session(
    filled: AsyncSession, readers: SessionFactory, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[Any] = []
    for _ in range(2):
        async with session_scope(readers) as reader:
            options = {"isolation_level": "SERIALIZABLE"}
            connection = await reader.connection(execution_options=options)
            assert await reader.scalar(select(Item.id).limit(1))
            used.append((await connection.get_raw_connection()).driver_connection)
    # It was returned as it came, and not replaced after a failed reset.
    assert used[0] is used[1]
    assert not caplog.records


async def test_a_handler_streams_more_rows_than_it_holds(
    filled: AsyncSession, settings: ChassisSettings
) -> None:
    router = APIRouter()

    @router.get("/export")
    async def export_items(sessions: DbSessions) -> AsyncIterator[int]:
        async with session_scope(sessions.read) as session:
            async for number in await session.stream_scalars(STREAM):
                yield number

    async with started(create_stock(settings, router)) as client:
        lines = (await client.get("/export")).text.splitlines()
    assert len(lines) == ROWS
    assert int(lines[-1]) - int(lines[0]) == ROWS - 1
