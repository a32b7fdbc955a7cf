"""is_transient: what may be tried again later, and what no waiting cures, on both engines."""

import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from chassis_logins import administered, role
from chassis_stock import Item, changed, create_tables, executing, only_on
from pydantic import SecretStr
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm.exc import StaleDataError

from chassis import ChassisSettings
from chassis.db import (
    DatabaseUnavailableError,
    ReadOnlySessionError,
    Sessions,
    is_missing_table,
    is_transient,
    open_sessions,
    session_scope,
)
from chassis.db.errors import Failure, classify


class ServerError(Exception):
    """What asyncpg raises for an answer of the server."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    "cause",
    [
        *map(ServerError, ("08006", "40001", "40P01", "53100", "53300", "55P03", "57P01", "57P03")),
        *map(sqlite_error, ("SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED")),
        *map(sqlite_error, ("SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR_WRITE")),
        sqlite_error("SQLITE_READONLY"),
    ],
    ids=str,
)
def test_what_may_pass_is_transient(cause: Exception) -> None:
    assert is_transient(DBAPIError("SELECT 1", {}, cause))


@pytest.mark.parametrize(
    "cause",
    [
        *map(ServerError, ("22001", "23505", "25006", "28P01", "3D000", "42601", "57014", "")),
        *map(sqlite_error, ("SQLITE_CORRUPT_INDEX", "SQLITE_NOTADB", "SQLITE_CONSTRAINT_UNIQUE")),
        sqlite_error("SQLITE_ERROR"),
    ],
    ids=str,
)
def test_what_is_at_fault_or_stays_so_is_not(cause: Exception) -> None:
    assert not is_transient(DBAPIError("SELECT 1", {}, cause))


@pytest.mark.parametrize(
    "cause",
    [
        *map(ServerError, ("28P01", "3D000")),
        *map(sqlite_error, ("SQLITE_CORRUPT", "SQLITE_NOTADB")),
    ],
    ids=str,
)
def test_a_lost_connection_does_not_change_that(cause: Exception) -> None:
    assert not is_transient(DBAPIError("SELECT 1", {}, cause, connection_invalidated=True))


@pytest.mark.parametrize(
    "error",
    [
        ReadOnlySessionError(),
        StaleDataError(),
        IntegrityError("INSERT", {}, Exception("NOT NULL")),
        LookupError("a bug"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nor_is_what_the_work_has_to_change(error: Exception) -> None:
    assert not is_transient(error)


async def provoke(work: Awaitable[object]) -> Exception:
    """Return what some work raises."""
    try:
        await work
    except Exception as error:
        return error
    return pytest.fail("nothing was raised")


async def add_bolt(sessions: Sessions) -> None:
    async with session_scope(sessions.write) as session:
        await session.execute(insert(Item).values(name="bolt"))
        await session.commit()


async def test_a_full_pool_is_transient(settings: ChassisSettings) -> None:
    create_tables(settings)
    small = changed(settings, database_pool_size=1, database_pool_timeout=0.05)
    async with open_sessions(small) as sessions:
        async with sessions.write.kw["bind"].connect():
            assert is_transient(await provoke(add_bolt(sessions)))
        await add_bolt(sessions)


async def test_a_lock_that_another_process_holds_is_transient(settings: ChassisSettings) -> None:
    create_tables(settings)
    hasty = changed(settings, database_lock_timeout_seconds=0.05, database_sqlite_busy_timeout=50)
    async with open_sessions(hasty) as sessions:
        with executing(settings) as connection:
            connection.execute(insert(Item).values(name="bolt"))
            assert is_transient(await provoke(add_bolt(sessions)))
            connection.rollback()
        await add_bolt(sessions)
        # Now it is there: no retry changes that.
        assert not is_transient(await provoke(add_bolt(sessions)))


async def test_a_connection_that_the_server_ends_is_transient(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    create_tables(settings)
    async with open_sessions(settings) as sessions:
        async with session_scope(sessions.write) as session:
            number = await session.scalar(text("SELECT pg_backend_pid()"))
            with executing(settings) as connection:
                connection.execute(text(f"SELECT pg_terminate_backend({number}, 5000)"))
            assert is_transient(await provoke(session.execute(select(Item.id))))
        await add_bolt(sessions)


async def test_a_statement_that_takes_too_long_is_not(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    async with (
        open_sessions(changed(settings, database_statement_timeout_seconds=0.05)) as sessions,
        session_scope(sessions.read) as session,
    ):
        assert not is_transient(await provoke(session.execute(text("SELECT pg_sleep(5)"))))


async def find_transience(settings: ChassisSettings) -> bool:
    """Return whether what a database that can't be reached raises is transient."""
    async with open_sessions(settings) as sessions:
        error = await provoke(add_bolt(sessions))
    assert classify(error) is Failure.UNAVAILABLE
    return is_transient(error)


async def test_a_server_that_is_away_is_transient_and_a_database_that_is_missing_is_not(
    settings: ChassisSettings,
) -> None:
    only_on("postgres", settings)
    assert settings.database_url is not None
    nowhere = urlsplit(settings.database_url.get_secret_value())._replace(path="/nowhere").geturl()
    for url, expected in (("postgresql://nobody@127.0.0.1:1/none", True), (nowhere, False)):
        assert await find_transience(changed(settings, database_url=SecretStr(url))) is expected


async def test_a_refused_password_is_not_transient(settings: ChassisSettings) -> None:
    only_on("postgres", settings)
    host, port = settings.database_target.hosts[0]
    with administered(settings) as admin, role(admin, "right") as (user, name):
        wrong = ChassisSettings(
            database_backend="postgres",
            database_postgres_host=host,
            database_postgres_port=port,
            database_postgres_user=user,
            database_postgres_password=SecretStr("wrong"),
            database_postgres_name=name,
        )
        assert not await find_transience(wrong)


async def test_a_file_that_is_no_database_is_not_transient(tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    file.write_bytes(b"no database at all" * 1000)
    assert not await find_transience(ChassisSettings(database_sqlite_path=file))


async def test_nor_is_a_file_that_was_replaced(tmp_path: Path) -> None:
    settings = ChassisSettings(database_sqlite_path=tmp_path / "app.db")
    create_tables(settings)
    async with open_sessions(settings) as sessions:
        await add_bolt(sessions)
        settings.database_sqlite_path.rename(tmp_path / "old.db")
        create_tables(settings)
        error = await provoke(add_bolt(sessions))
    assert isinstance(error, DatabaseUnavailableError)
    assert not is_transient(error)


def test_a_group_is_transient_if_all_that_is_in_it_is() -> None:
    away, bug = DatabaseUnavailableError("away"), ValueError("bug")
    assert is_transient(ExceptionGroup("tasks", [away, ExceptionGroup("more", [away])]))
    assert not is_transient(ExceptionGroup("tasks", [away, bug]))


async def test_a_table_that_is_not_there_yet_is_told_from_what_else_fails(
    settings: ChassisSettings,
) -> None:
    async with open_sessions(settings) as sessions, session_scope(sessions.read) as session:
        missing = await provoke(session.execute(text("SELECT 1 FROM nuts")))
        await session.rollback()
        wrong = await provoke(session.execute(text("SELECT nut")))
    assert is_missing_table(missing)
    assert not is_transient(missing)
    assert not is_missing_table(wrong)
    assert is_missing_table(ExceptionGroup("tasks", [missing, missing]))
    assert not is_missing_table(ExceptionGroup("tasks", [missing, LookupError("a bug")]))
    assert not is_missing_table(DatabaseUnavailableError("away"))
