"""SQLite's connections: pragmas, transactions and the folder of the file."""

import logging
import os
import sqlite3
import time
import warnings
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SAWarning
from sqlalchemy.pool import ConnectionPoolEntry

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..errors import DatabaseSettingsError

logger = logging.getLogger(__name__)

# Before it, two processes that write at once can damage a file in WAL mode:
# https://sqlite.org/wal.html#walresetbug
SAFE_FOR_PROCESSES = (3, 51, 3)
# What a WAL is cut to when it begins anew. A reader that stays can make it grow to any size.
WAL_BYTES_KEPT = 64 * 1024 * 1024
_GIVEN_UP = "chassis_given_up"


def prepare_folder(target: DatabaseTarget) -> None:
    """Make the folder of the file. Raises DatabaseSettingsError where it can't be written."""
    folder = Path(target.url.database or "").resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Tried and not asked: root may write everywhere, where the file system has no such folder.
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(target, folder) from error


def configure_connections(
    engine: Engine, settings: DatabaseSettings, *, read_only: bool = False, migrating: bool = False
) -> None:
    """Set the pragmas once for each connection, and begin write transactions with IMMEDIATE.

    With the driver's own transactions SAVEPOINT, DDL rollback and repeatable read are broken, and
    with a plain BEGIN two readers that both go on to write fail at once, whatever the busy timeout.
    """
    pragmas = _pragmas(settings, read_only=read_only, migrating=migrating)
    wait = int(settings.database_wait_seconds * 1000) if migrating else 0
    busy_timeout = max(settings.database_sqlite_busy_timeout, wait)

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"PRAGMA busy_timeout={busy_timeout}")
            _set_journal_mode(cursor, settings)
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")

    if migrating:

        @event.listens_for(engine, "begin")
        def begin_at_once(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    elif not read_only:

        @event.listens_for(engine, "begin")
        def begin_with_next_statement(connection: Connection) -> None:
            driver: Any = connection.connection.driver_connection
            driver.begin_with_next_statement()


def free_lock_on_cancellation(engine: Engine) -> None:
    """Stop the statement of a cancelled task and roll back, so that its write lock is gone at once.

    Cancelling a task does not stop the thread that runs its statement.
    """

    @event.listens_for(engine, "invalidate")
    def invalidate(
        connection: DBAPIConnection, record: ConnectionPoolEntry, error: BaseException | None
    ) -> None:
        driver: Any = record.driver_connection
        record.info[_GIVEN_UP] = True
        if driver is not None:
            driver.interrupt_now()


def end_streams_at_checkin(engine: Engine) -> None:
    """Let go of what a stream left unread: its snapshot would keep the WAL from being cut."""

    @event.listens_for(engine, "checkin")
    def close_streams(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        driver: Any = record.driver_connection
        if driver is not None:
            driver.close_streams()


def optimize_on_close(engine: Engine) -> None:
    """Let SQLite renew the statistics that it plans queries by, as its manual asks."""

    @event.listens_for(engine, "close")
    def close(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        if record.info.get(_GIVEN_UP):
            return
        # Another process may be writing; this one is about to end, and does not wait for it.
        pragmas = ("busy_timeout=0", "analysis_limit=400", "optimize")
        with suppress(sqlite3.Error), closing(connection.cursor()) as cursor:
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")


def back_up(connection: Connection, file: Path) -> Path | None:
    """Copy the database as it was before the transaction of `connection`; None if it is empty."""
    if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0:
        return None
    copy = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.backup")
    # A connection of its own: it reads what is committed.
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as backup:
        source.backup(backup)
    return copy


def report_version(processes: int) -> None:
    """Log SQLite's version, with a warning where several processes should not write with it."""
    logger.info("SQLite %s", sqlite3.sqlite_version)
    if warning := version_warning(processes):
        logger.warning("%s", warning)


def version_warning(processes: int) -> str | None:
    """Return why several processes should not write with this version of SQLite, or None."""
    if processes == 1 or sqlite3.sqlite_version_info >= SAFE_FOR_PROCESSES:
        return None
    return (
        f"{processes} processes write by SQLite {sqlite3.sqlite_version}, which can damage the "
        "file, if rarely: run one (APP_SERVER_WORKERS=1), or use SQLite 3.51.3 or later"
    )


def accept_decimals() -> None:
    """Silence SQLAlchemy's warning: a NUMERIC of up to 15 digits comes back exact from SQLite."""
    message = r"Dialect sqlite\+\w+ does \*not\* support Decimal objects natively"
    warnings.filterwarnings("ignore", message=message, category=SAWarning)


def _pragmas(settings: DatabaseSettings, *, read_only: bool, migrating: bool) -> list[str]:
    # A table that a batch migration makes anew takes its child rows with it while keys are on.
    foreign_keys = settings.database_sqlite_foreign_keys and not migrating
    pragmas = [
        f"synchronous={settings.database_sqlite_synchronous}",
        f"foreign_keys={'ON' if foreign_keys else 'OFF'}",
        f"journal_size_limit={WAL_BYTES_KEPT}",
        # As PostgreSQL's LIKE is; `ilike` ignores case on both.
        "case_sensitive_like=ON",
    ]
    if settings.database_sqlite_cache_size is not None:
        pragmas.append(f"cache_size={settings.database_sqlite_cache_size}")
    if settings.database_sqlite_mmap_size is not None:
        pragmas.append(f"mmap_size={settings.database_sqlite_mmap_size}")
    if read_only:
        pragmas.append("query_only=ON")
    return pragmas


def _set_journal_mode(cursor: Any, settings: DatabaseSettings) -> None:
    """Switch the journal mode; SQLite does not wait by itself for others that do the same."""
    deadline = time.monotonic() + settings.database_sqlite_busy_timeout / 1000
    while True:
        try:
            cursor.execute(f"PRAGMA journal_mode={settings.database_sqlite_journal_mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _unwritable(target: DatabaseTarget, folder: Path) -> DatabaseSettingsError:
    return DatabaseSettingsError(
        f"{target.chosen_by}: this user (id {_user_id()}) can't write the SQLite folder {folder}; "
        "make it writable or name another file with APP_DATABASE_SQLITE_PATH"
    )


def _user_id() -> int | str:
    return os.getuid() if hasattr(os, "getuid") else "unknown"
