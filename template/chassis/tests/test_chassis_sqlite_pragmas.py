"""SQLite's versions, and its statistics, which it renews when the service stops."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from chassis.db import DatabaseSettings, create_database_engine
from chassis.db.postgres.connection_budget import report_budget
from chassis.db.sqlite.pragmas import WAL_BYTES_KEPT, version_warning

ROWS = """
    INSERT INTO things SELECT n, n % 7 FROM (
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 500)
        SELECT n FROM numbers
    )
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "app.db"


@pytest.fixture
def settings(file: Path) -> DatabaseSettings:
    return DatabaseSettings(database_sqlite_path=file)


async def query(settings: DatabaseSettings) -> None:
    """Make a table with an index that has no statistics yet, and look something up by it."""
    engine = create_database_engine(settings)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY, kind INTEGER)"))
        await connection.execute(text("CREATE INDEX ix_things ON things (kind)"))
        await connection.execute(text(ROWS))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT id FROM things WHERE kind = 3"))
    await engine.dispose()


def has_statistics(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
        return ("sqlite_stat1",) in names


async def test_statistics_are_renewed_when_the_engine_is_disposed(
    settings: DatabaseSettings, file: Path
) -> None:
    await query(settings)

    assert has_statistics(file)


async def test_another_process_that_writes_does_not_hold_up_the_end(
    settings: DatabaseSettings, file: Path
) -> None:
    engine = create_database_engine(settings)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(2):
            await engine.dispose()


def test_several_processes_need_a_version_without_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    assert version_warning(1) is None
    assert "4 processes write" in str(version_warning(4))
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    assert version_warning(4) is None


async def test_the_version_is_logged_at_the_start(
    settings: DatabaseSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    caplog.set_level(logging.INFO)

    await report_budget(settings, processes=2)

    levels = [(record.levelname, record.getMessage()[:11]) for record in caplog.records]
    assert levels == [("INFO", f"SQLite {sqlite3.sqlite_version}"[:11]), ("WARNING", "2 processes")]


async def test_a_log_that_grew_behind_a_reader_is_cut_when_the_reader_is_gone(
    settings: DatabaseSettings, file: Path
) -> None:
    engine, wal = create_database_engine(settings), file.with_name("app.db-wal")

    async def write(blobs: int) -> None:
        async with engine.begin() as connection:
            for _ in range(blobs):
                await connection.execute(text("INSERT INTO blobs VALUES (zeroblob(1048576))"))

    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE blobs (content BLOB)"))
    with closing(sqlite3.connect(file)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM blobs").fetchone()
        await write(70)
    assert wal.stat().st_size > 70 * 1024 * 1024
    await write(1)
    await write(1)

    assert wal.stat().st_size <= WAL_BYTES_KEPT
    await engine.dispose()
