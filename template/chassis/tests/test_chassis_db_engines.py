"""The two engines: what their connections are set to, how they are shared, and how they fail."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chassis_logins import administered, role
from chassis_relay import Relay, relayed
from chassis_stock import (
    Item,
    changed,
    checked_out,
    create_tables,
    only_on,
    opened,
    register_dialect,
    threads_ended,
)
from pydantic import SecretStr
from sqlalchemy import Date, func, insert, literal, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from chassis import ChassisSettings
from chassis.db import (
    DatabaseUnavailableError,
    ReadOnlySessionError,
    create_database_engine,
    create_read_engine,
)
from chassis.db.base import UTCDateTime
from chassis.db.errors import DatabaseSettingsError
from chassis.db.migrations.connect import open_connection


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give one connection of an engine that is disposed afterwards."""
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def scalar(engine: AsyncEngine, query: str) -> Any:
    async with engine.connect() as connection:
        return await connection.scalar(text(query))


def through(relay: Relay, settings: ChassisSettings, **changes: object) -> ChassisSettings:
    """Give settings that reach the same database by way of a relay."""
    url = settings.database_target.url.set(host="127.0.0.1", port=relay.port)
    return changed(settings, database_url=url.render_as_string(hide_password=False), **changes)


def file_of(settings: ChassisSettings) -> Path:
    return Path(settings.database_target.url.database or "")


async def test_nothing_is_opened_before_the_first_statement(tmp_path: Path) -> None:
    settings = ChassisSettings(database_sqlite_path=tmp_path / "new" / "folder" / "app.db")

    engine = create_database_engine(settings)
    assert list(file_of(settings).parent.iterdir()) == []

    async with connected(engine) as connection:
        await connection.execute(text("SELECT 1"))
    assert file_of(settings).is_file()


def test_a_folder_that_cannot_be_made_is_named_with_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = ChassisSettings(database_sqlite_path=tmp_path / "file" / "app.db")

    with pytest.raises(DatabaseSettingsError, match=r"^APP_DATABASE_SQLITE_PATH: .*/file; "):
        create_database_engine(settings)


async def test_the_sizes_of_the_pools(settings: ChassisSettings) -> None:
    writers, readers = {"sqlite": (1, 2), "postgres": (5, 10)}[settings.database_target.backend]

    for engine, size in (
        (create_database_engine(settings), writers),
        (create_read_engine(settings), readers),
    ):
        await use_all(engine, size)


async def use_all(engine: AsyncEngine, size: int) -> None:
    """Take as many connections as there are, and fail to take one more."""
    engine.sync_engine.pool._timeout = 0.1  # type: ignore[attr-defined]
    async with AsyncExitStack() as stack:
        for _ in range(size):
            await stack.enter_async_context(engine.connect())
        with pytest.raises(PoolTimeoutError):
            await stack.enter_async_context(engine.connect())
        assert checked_out(engine) == size
    assert checked_out(engine) == 0
    await engine.dispose()


async def test_sizes_and_timeout_are_settings(settings: ChassisSettings) -> None:
    settings = changed(
        settings,
        database_pool_size=2,
        database_max_overflow=1,
        database_read_pool_size=3,
        database_pool_timeout=0.1,
    )
    engine, read_engine = create_database_engine(settings), create_read_engine(settings)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(read_engine.connect())
            if settings.database_target.backend == "postgres":
                await stack.enter_async_context(engine.connect())
        if settings.database_target.backend == "sqlite":
            await stack.enter_async_context(engine.connect())
        started = time.monotonic()
        for full in (read_engine, engine):
            with pytest.raises(PoolTimeoutError):
                await stack.enter_async_context(full.connect())
        assert time.monotonic() - started < 1
    await engine.dispose()
    await read_engine.dispose()


async def test_40_sessions_in_a_row_use_one_connection(read_engine: AsyncEngine) -> None:
    async with read_engine.connect(), read_engine.connect():
        pass
    used = set()
    for _ in range(40):
        async with read_engine.connect() as connection:
            used.add(id((await connection.get_raw_connection()).driver_connection))

    assert len(used) == 1
    assert opened(read_engine) == 2


@pytest.mark.parametrize("create", [create_database_engine, create_read_engine])
async def test_sqlite_pragmas(settings: ChassisSettings, create: Any) -> None:
    only_on("sqlite", settings)
    read_only = int(create is create_read_engine)

    assert await pragmas(create(settings)) == {
        "journal_mode": "wal",
        "synchronous": 1,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "cache_size": -2000,
        "query_only": read_only,
    }
    others = changed(
        settings,
        database_sqlite_journal_mode="DELETE",
        database_sqlite_synchronous="FULL",
        database_sqlite_foreign_keys=False,
        database_sqlite_busy_timeout=250,
        database_sqlite_cache_size=-512,
        database_sqlite_mmap_size=4096,
    )
    assert await pragmas(create(others)) == {
        "journal_mode": "delete",
        "synchronous": 2,
        "foreign_keys": 0,
        "busy_timeout": 250,
        "cache_size": -512,
        "query_only": read_only,
    }


async def pragmas(engine: AsyncEngine) -> dict[str, object]:
    names = (
        "journal_mode",
        "synchronous",
        "foreign_keys",
        "busy_timeout",
        "cache_size",
        "query_only",
    )
    async with connected(engine) as connection:
        return {name: await connection.scalar(text(f"PRAGMA {name}")) for name in names}


async def test_sqlite_takes_the_write_lock_when_a_transaction_begins(
    settings: ChassisSettings, engine: AsyncEngine
) -> None:
    only_on("sqlite", settings)
    other = sqlite3.connect(file_of(settings), timeout=0, isolation_level=None)
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


async def test_a_savepoint_and_a_table_can_be_rolled_back(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TABLE kept (number int)"))
        await connection.commit()

        await connection.execute(text("INSERT INTO kept VALUES (1)"))
        savepoint = await connection.begin_nested()
        await connection.execute(text("INSERT INTO kept VALUES (2)"))
        await savepoint.rollback()
        await connection.commit()
        assert await connection.scalar(text("SELECT sum(number) FROM kept")) == 1

        await connection.execute(text("CREATE TABLE dropped (number int)"))
        await connection.rollback()
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT * FROM dropped"))


async def test_a_read_opens_no_transaction(
    settings: ChassisSettings, read_engine: AsyncEngine
) -> None:
    async with read_engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if settings.database_target.backend == "sqlite":
            assert not driver.in_transaction
        else:
            assert not driver.is_in_transaction()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO item (name, quantity, details) VALUES ('stray', 0, '{}')",
        "UPDATE item SET quantity = 0",
        "DELETE FROM item",
        "CREATE TABLE stray (number int)",
    ],
)
async def test_the_server_refuses_textual_writes_of_the_read_engine(
    settings: ChassisSettings, engine: AsyncEngine, read_engine: AsyncEngine, statement: str
) -> None:
    create_tables(settings)
    async with engine.begin() as connection:
        await connection.execute(insert(Item).values(name="kept", quantity=7))

    async with read_engine.connect() as connection:
        with pytest.raises(ReadOnlySessionError, match="take DbSession"):
            await connection.execute(text(statement))
    assert await scalar(read_engine, "SELECT sum(quantity) FROM item") == 7


async def test_what_postgres_connections_are_told(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    settings = changed(
        settings,
        database_application_name="stock",
        database_statement_timeout_seconds=1.5,
        database_lock_timeout_seconds=2,
        database_idle_in_transaction_timeout_seconds=0,
    )
    told = {
        "application_name": "stock",
        "statement_timeout": "1500ms",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "0",
        "default_transaction_read_only": "off",
    }
    assert await shown(create_database_engine(settings), told) == told

    told["default_transaction_read_only"] = "on"
    assert await shown(create_read_engine(settings), told) == told


@pytest.mark.parametrize("pgbouncer", [False, True])
async def test_a_day_begins_and_ends_in_utc(settings: ChassisSettings, *, pgbouncer: bool) -> None:
    if settings.database_target.backend == "postgres":
        with open_connection(settings) as own, own.begin():
            name = own.scalar(text("SELECT current_database()"))
            own.execute(text(f"ALTER DATABASE \"{name}\" SET timezone TO 'Pacific/Auckland'"))
    serving = changed(settings, database_pgbouncer=pgbouncer)
    last_hour = literal(datetime(2026, 12, 31, 23, tzinfo=UTC), UTCDateTime)
    day = select(func.date(last_hour, type_=Date))
    for create in (create_database_engine, create_read_engine):
        async with connected(create(serving)) as connection:
            assert await connection.scalar(day) == date(2026, 12, 31)
    with open_connection(settings) as migrating:
        assert migrating.scalar(day) == date(2026, 12, 31)


async def test_a_pooler_is_told_what_it_keeps_and_nothing_else(
    settings: ChassisSettings,
) -> None:
    only_on("postgres", settings)
    settings = changed(settings, database_application_name="stock", database_pgbouncer=True)
    for create in (create_database_engine, create_read_engine):
        query = "SELECT name FROM pg_settings WHERE source = 'client' ORDER BY name"
        async with connected(create(settings)) as connection:
            told = list(await connection.scalars(text(query)))
            prepared = await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
        assert told == ["TimeZone", "application_name", "client_encoding"]
        assert prepared == 0


async def shown(engine: AsyncEngine, names: dict[str, str]) -> dict[str, object]:
    async with connected(engine) as connection:
        return {name: await connection.scalar(text(f"SHOW {name}")) for name in names}


async def test_connections_that_the_server_closed_are_replaced(
    settings: ChassisSettings, engine: AsyncEngine
) -> None:
    only_on("postgres", settings)
    for _ in range(3):
        async with engine.connect(), engine.connect(), engine.connect():
            pass
        with administered(settings) as admin:
            end_connections(admin)
        # The driver learns of it when the loop reads what the server sent.
        await asyncio.sleep(0.05)
        for _ in range(5):
            assert await scalar(engine, "SELECT 1") == 1


async def test_without_the_check_a_closed_connection_is_an_error(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    engine = create_database_engine(changed(settings, database_pool_pre_ping=False))
    assert await scalar(engine, "SELECT 1") == 1
    with administered(settings) as admin:
        end_connections(admin)
    with pytest.raises(DBAPIError):
        await scalar(engine, "SELECT 1")
    await engine.dispose()


def end_connections(admin: Any) -> None:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    admin.execute(
        text(f"SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE {others}")
    )


async def test_a_connection_that_went_silent_while_idle_is_replaced(
    settings: ChassisSettings,
) -> None:
    only_on("postgres", settings)
    with relayed(settings.database_target) as relay:
        settings = through(
            relay, settings, database_ping_idle_seconds=0, database_connect_timeout_seconds=0.5
        )
        engine = create_database_engine(settings)
        assert await scalar(engine, "SELECT 1") == 1
        assert await scalar(engine, "SELECT 1") == 1
        assert relay.accepted == 1

        relay.silence()

        assert await scalar(engine, "SELECT 1") == 1
        # Besides the new connection there may be one that cancels the statement of the old one.
        assert relay.accepted > 1
        await engine.dispose()


async def test_a_database_that_cannot_be_opened_is_unavailable(settings: ChassisSettings) -> None:
    if settings.database_target.backend == "sqlite":
        file_of(settings).mkdir(parents=True)
    else:
        url = settings.database_target.url.set(
            host="127.0.0.1", port=1, username="ann", password="s3cret"
        )
        settings = ChassisSettings(database_url=SecretStr(url.render_as_string(False)))

    async with threads_ended():
        for create in (create_database_engine, create_read_engine):
            with pytest.raises(DatabaseUnavailableError) as caught:
                await scalar(create(settings), "SELECT 1")
            assert settings.database_target.masked in str(caught.value)
            assert "s3cret" not in str(caught.value)


async def test_a_server_that_does_not_answer_is_given_up(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    with relayed(settings.database_target) as relay:
        relay.stop()
        relay.start(deaf=True)
        engine = create_database_engine(
            through(relay, settings, database_connect_timeout_seconds=0.3)
        )
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            await scalar(engine, "SELECT 1")
        assert time.monotonic() - started < 2


async def test_a_wrong_password_and_a_wrong_name_are_unavailable(
    settings: ChassisSettings,
) -> None:
    only_on("postgres", settings)
    with (
        administered(settings) as admin,
        relayed(settings.database_target) as relay,
        role(admin, "right") as (user, name),
    ):
        # SQLAlchemy writes the name into a URL as it is.
        right = through(relay, settings).database_target.url.set(
            username=user, database=quote(name, safe="")
        )
        for wrong in (right.set(password="s3cret"), right.set(password="right", database="none")):
            url = SecretStr(wrong.render_as_string(hide_password=False))
            with pytest.raises(DatabaseUnavailableError) as caught:
                await scalar(create_database_engine(ChassisSettings(database_url=url)), "SELECT 1")
            assert "s3cret" not in str(caught.value)


async def test_a_pool_comes_back_when_its_server_does(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    with relayed(settings.database_target) as relay:
        engine = create_database_engine(through(relay, settings))
        async with engine.connect() as connection:
            relay.stop()
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(text("SELECT 1"))
            assert caught.value.connection_invalidated
        with pytest.raises(DatabaseUnavailableError):
            await scalar(engine, "SELECT 1")

        relay.start()
        assert await scalar(engine, "SELECT 1") == 1
        assert checked_out(engine) == 0
        await engine.dispose()


async def test_a_sqlite_file_that_cannot_be_set_up_leaves_nothing_open(
    settings: ChassisSettings,
) -> None:
    only_on("sqlite", settings)
    settings = changed(settings, database_sqlite_busy_timeout=50)
    other = sqlite3.connect(file_of(settings), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    async with threads_ended():
        engine = create_database_engine(settings)
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(DBAPIError, match="locked"):
                await scalar(engine, "SELECT 1")
        assert time.monotonic() - started < 2
        other.close()

        assert await scalar(engine, "SELECT 1") == 1
        await engine.dispose()


async def test_a_cancelled_sqlite_write_frees_the_lock_at_once(
    settings: ChassisSettings, engine: AsyncEngine
) -> None:
    only_on("sqlite", settings)
    create_tables(settings)
    endless = """
        WITH RECURSIVE numbers AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers)
        INSERT INTO part (item_id) SELECT n FROM numbers
    """
    async with engine.connect() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.execute(text(endless))

    other = sqlite3.connect(file_of(settings), timeout=1, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert other.execute("SELECT count(*) FROM part").fetchone() == (0,)
    other.close()
    assert await scalar(engine, "SELECT 1") == 1


async def test_cancelled_requests_leave_the_pool_intact(
    settings: ChassisSettings, engine: AsyncEngine
) -> None:
    only_on("postgres", settings)

    async def give_up_after(seconds: float) -> None:
        async with asyncio.timeout(seconds), engine.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(0.005)"))

    tasks = [give_up_after(number * 0.0005) for number in range(100)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes if outcome is not None} == {TimeoutError}
    assert checked_out(engine) == 0
    await use_all(engine, 5)


async def test_an_error_shows_no_values(settings: ChassisSettings, engine: AsyncEngine) -> None:
    create_tables(settings)
    add = insert(Item).values(name="s3cret", quantity=0, details={})
    async with engine.begin() as connection:
        await connection.execute(add)
        with pytest.raises(IntegrityError) as caught:
            await connection.execute(add)

    statement = str(caught.value).partition("[SQL:")[2]
    assert "INSERT INTO item" in statement
    assert "s3cret" not in statement


async def test_a_custom_database_has_one_engine(tmp_path: Path) -> None:
    register_dialect()
    settings = ChassisSettings(
        database_url=SecretStr(f"depot+aiosqlite:///{tmp_path}/app.db"),
        alembic_database_url=SecretStr(f"depot:///{tmp_path}/app.db"),
    )
    with pytest.raises(DatabaseSettingsError, match="use create_database_engine"):
        create_read_engine(settings)

    engine = create_database_engine(settings)
    assert await scalar(engine, "SELECT 1") == 1
    await use_all(engine, 5)
