"""SQLite's connections: their pragmas, how transactions begin, and what a cancelled one leaves."""

import logging
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

logger = logging.getLogger(__name__)

# Before it, two processes that write at once can damage a file in WAL mode:
# https://sqlite.org/wal.html#walresetbug
SAFE_FOR_PROCESSES = (3, 51, 3)
# What a WAL is cut to when it begins anew. A reader that stays can make it grow to any size.
WAL_BYTES_KEPT = 64 * 1024 * 1024

# Where the entry of a pool has the connection of sqlite3.
HANDLE = "chassis_sqlite_handle"

_INTERRUPTED = "chassis_interrupted"


def set_pragmas(engine: Engine, chosen: Mapping[str, object], *, busy_timeout: int) -> None:
    """Set pragmas on each connection of an engine; None leaves SQLite's default."""
    pragmas = {
        "busy_timeout": busy_timeout,
        **chosen,
        "journal_size_limit": WAL_BYTES_KEPT,
        # As PostgreSQL's LIKE is; `ilike` ignores case on both.
        "case_sensitive_like": "ON",
    }
    statements = [f"PRAGMA {name}={value}" for name, value in pragmas.items() if value is not None]

    @event.listens_for(engine, "connect")
    def set_up_connection(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        # The driver's own transactions break SAVEPOINT, DDL rollback and repeatable read.
        connection.isolation_level = None
        with closing(connection.cursor()) as cursor:
            for statement in statements:
                _execute_pragma(cursor, statement, busy_timeout)


def remember_handle(connection: Any, record: ConnectionPoolEntry) -> None:
    """Keep the connection of sqlite3 with its entry of an asynchronous engine's pool."""
    # Imports the driver, which is not needed if PostgreSQL serves.
    from .connection import find_handle

    record.info[HANDLE] = connection.run_async(find_handle)


def begin_with_next_statement(connection: Connection) -> None:
    """Begin an asynchronous engine's transaction with IMMEDIATE, at its first statement.

    With a plain BEGIN two that read and then write fail at once, whatever the busy timeout.
    """
    connection.connection.info[HANDLE].begins = True


def begin_immediately(connection: Connection) -> None:
    """Begin a synchronous engine's transaction with IMMEDIATE, at once."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def interrupt_statement(
    connection: DBAPIConnection, record: ConnectionPoolEntry, error: BaseException | None
) -> None:
    """Stop the statement of a cancelled task, so that its write lock is gone at once.

    Cancelling a task does not stop the thread that runs its statement.
    """
    record.info[_INTERRUPTED] = True
    if (handle := record.info.get(HANDLE)) is not None:
        handle.interrupt_now()


def close_streams(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    """Close the streams that were left unread: their snapshot would keep the WAL from being cut."""
    if connection is not None and HANDLE in record.info:
        record.info[HANDLE].close_streams()


def renew_statistics(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Renew the statistics that SQLite plans queries by, as its manual asks."""
    if record.info.get(_INTERRUPTED):
        return
    # Another process may be writing; this one is about to end, and does not wait for it.
    pragmas = ("busy_timeout=0", "analysis_limit=400", "optimize")
    with suppress(sqlite3.Error), closing(connection.cursor()) as cursor:
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")


def back_up(connection: Connection, file: Path) -> Path | None:
    """Copy the database as it was before the connection's transaction; return None if empty."""
    if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0:
        return None
    copy = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.backup")
    # A connection of its own: it reads what is committed.
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as backup:
        source.backup(backup)
    return copy


def report_version(processes: int) -> None:
    """Log SQLite's version, with a warning if several processes should not write with it."""
    logger.info("SQLite %s", sqlite3.sqlite_version)
    if warning := version_warning(processes):
        logger.warning("%s", warning)


def version_warning(processes: int) -> str | None:
    """Return why several processes should not write with this version of SQLite, or None."""
    if processes == 1 or sqlite3.sqlite_version_info >= SAFE_FOR_PROCESSES:
        return None
    return (
        f"{processes} processes write by SQLite {sqlite3.sqlite_version}, which can damage the "
        "file, if rarely: run one (APP_SERVER_WORKERS=1, no `work`), or use SQLite 3.51.3 or later"
    )


def _execute_pragma(cursor: Any, statement: str, busy_timeout: int) -> None:
    """Execute a pragma; SQLite does not wait by itself for others that switch the journal mode."""
    deadline = time.monotonic() + busy_timeout / 1000
    while True:
        try:
            cursor.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
