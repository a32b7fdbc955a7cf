"""Connections of migrations: synchronous, unpooled, and never through a transaction pooler."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, pool, text
from sqlalchemy.exc import DatabaseError

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..dialects import with_chassis_types
from ..engines import create_probe_engine, find_password_source, set_sqlite_pragmas, uses_pgbouncer
from ..errors import DatabaseSettingsError, DatabaseUnavailableError, is_transient
from ..postgres.connect import connection_error, fetch_password_on_connect, is_refusal_by_pooler
from ..postgres.options import ENCODING_ADVICE, encoding_warning, psycopg_arguments
from ..sqlite.files import prepare_folder
from ..sqlite.pragmas import begin_immediately
from .attempts import attempt_lock_timeout

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_LONGEST_BACKOFF_SECONDS = 2.0
_POOLER_REFUSAL = (
    "APP_ALEMBIC_DATABASE_URL: migrations can't run through a transaction pooler (PgBouncer), "
    "where their lock is lost; set it to the URL of the database itself"
)


class PoolerError(DatabaseSettingsError):
    """A transaction pooler stands before the database."""


def wait_for_database(settings: DatabaseSettings) -> None:
    """Wait until the database answers, `APP_DATABASE_WAIT_SECONDS` at most.

    Raise DatabaseUnavailableError after that, or at once if waiting can't help.
    """
    deadline = time.monotonic() + settings.database_wait_seconds
    pause = _POLL_SECONDS
    while True:
        try:
            _connect_once(settings)
            return
        except DatabaseUnavailableError as error:
            if not is_transient(error) or time.monotonic() + pause > deadline:
                raise
            logger.info("waiting for the database: %s", error)
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_BACKOFF_SECONDS)


def _connect_once(settings: DatabaseSettings) -> None:
    if settings.database_migration_target.backend == "postgres":
        _refuse_named_pooler(settings)
        asyncio.run(_connect_by_asyncpg(settings))
    with open_connection(settings):
        pass


async def _connect_by_asyncpg(settings: DatabaseSettings) -> None:
    """Connect as requests do: libpq tells a refusal in the server's language, without its code."""
    engine = create_probe_engine(settings, settings.database_migration_target)
    try:
        async with engine.connect():
            pass
    finally:
        await engine.dispose()


@contextmanager
def open_connection(settings: DatabaseSettings) -> Iterator[Connection]:
    """Open a connection as migrations do. Raise DatabaseUnavailableError if it fails."""
    with (
        create_migration_engine(settings) as engine,
        open_engine(engine, settings.database_migration_target) as connection,
    ):
        yield connection


def check_migration_connections(settings: DatabaseSettings) -> str:
    """Connect as migrations do and return the driver's name.

    Raise DatabaseUnavailableError if that fails, DatabaseSettingsError behind a pooler.
    """
    with open_connection(settings) as one, open_connection(settings) as other:
        if one.dialect.name == "postgresql":
            refuse_noticed_pooler(one, other)
        return one.dialect.driver


@contextmanager
def create_migration_engine(settings: DatabaseSettings) -> Iterator[Engine]:
    target = settings.database_migration_target
    _refuse_named_pooler(settings)
    url, arguments = target.migration()
    if target.backend == "sqlite":
        prepare_folder(Path(url.database or ""), target.chosen_by)
    if target.backend == "postgres":
        arguments = psycopg_arguments(
            arguments,
            application_name=settings.database_application_name,
            connect_timeout=settings.database_connect_timeout_seconds,
            lock_timeout=attempt_lock_timeout(settings),
        )
    engine = create_engine(
        with_chassis_types(url),
        connect_args=arguments,
        echo=settings.database_echo,
        hide_parameters=True,
        poolclass=pool.NullPool,
    )
    if target.backend == "sqlite":
        set_sqlite_pragmas(engine, settings, migrating=True)
        event.listen(engine, "begin", begin_immediately)
    if target.backend == "postgres":
        fetch_password = find_password_source(settings, target, *target.hosts[0])
        if fetch_password is not None:
            fetch_password_on_connect(engine, fetch_password)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def open_engine(engine: Engine, target: DatabaseTarget) -> Iterator[Connection]:
    try:
        connection = engine.connect()
    except DatabaseError as error:
        if is_refusal_by_pooler(str(error.orig)):
            raise PoolerError(_POOLER_REFUSAL) from error
        raise connection_error(target.masked, [error]) from error
    with connection:
        if connection.dialect.name == "postgresql":
            _refuse_sql_ascii(connection, target)
        yield connection


def _refuse_sql_ascii(connection: Connection, target: DatabaseTarget) -> None:
    driver: Any = connection.connection.driver_connection
    encoding = driver.info.parameter_status("server_encoding")
    if encoding == "SQL_ASCII":
        warning = encoding_warning(encoding)
        raise DatabaseSettingsError(f"{target.chosen_by}: {warning}; {ENCODING_ADVICE}")


def _refuse_named_pooler(settings: DatabaseSettings) -> None:
    target = settings.database_migration_target
    shared = target is settings.database_target
    if target.pgbouncer or (shared and uses_pgbouncer(settings, target)):
        raise PoolerError(_POOLER_REFUSAL)


def refuse_noticed_pooler(*pair: Connection) -> None:
    """Raise PoolerError if two idle connections share a server process."""
    for one in pair:
        one.execution_options(isolation_level="AUTOCOMMIT")
    ask = text("SELECT pg_backend_pid()")
    seen = [tuple(one.scalar(ask) for one in pair) for _ in range(3)]
    if len({pid for row in seen for pid in row}) != 2 or len(set(seen)) != 1:
        raise PoolerError(_POOLER_REFUSAL)
