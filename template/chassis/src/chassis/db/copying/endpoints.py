"""Where a copy goes from and to, and what both must be."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget, parse_url
from ..errors import DatabaseSettingsError, DatabaseUnavailableError
from ..migrations.connect import PoolerError, check_migration_connections, open_connection
from ..migrations.revisions import CodeRevisions, UnknownRevisionError
from ..postgres.options import encoding_warning
from .errors import CopyError
from .source import SourceFile
from .target import Target

# Any number that nothing else in the database uses, and not that of migrations: ASCII "copying".
LOCK_KEY = int.from_bytes(b"copying", "big")


def resolve_target(settings: DatabaseSettings, argument: str | None) -> DatabaseTarget:
    """Return the database to copy to, as the command or a variable names it.

    Raise DatabaseSettingsError if there is none, or it is not PostgreSQL.
    """
    variable = "TARGET_URL" if argument else "APP_DATABASE_COPY_TARGET_URL"
    url = SecretStr(argument) if argument else settings.database_copy_target_url
    parsed = url and parse_url(url.get_secret_value(), variable, settings.tls_parameters())
    if not parsed or parsed.backend != "postgres":
        raise DatabaseSettingsError(
            f"{variable}: the copy goes to PostgreSQL; set it to "
            "postgresql://user:password@host:5432/name"
        )
    return parsed


def find_file(settings: DatabaseSettings) -> Path:
    """Return the service's SQLite file. Raise DatabaseSettingsError if it has none."""
    source = settings.database_target
    if source.backend != "sqlite":
        raise DatabaseSettingsError(
            f"{source.chosen_by}: a SQLite file is copied, and this names {source.masked}; set "
            "APP_DATABASE_URL=sqlite:///… until the copy is done"
        )
    return Path(source.url.database or "")


def find_revision(source: SourceFile, code: CodeRevisions) -> str:
    """Return the revision of a file. Raise CopyError or UnknownRevisionError if there is none."""
    state = code.compare(source.connection)
    if state.age in ("newer", "foreign"):
        raise UnknownRevisionError(state)
    if len(state.revisions) != 1:
        raise CopyError(
            f"the file has {state.shown}, so that there is no schema to copy: migrate it first"
        )
    return next(iter(state.revisions))


@contextmanager
def open_target(settings: DatabaseSettings) -> Iterator[Target]:
    """Open the database to copy to, for one copy at a time.

    Raise CopyError for an encoding that lacks characters or a role that may not make tables,
    DatabaseSettingsError for a pooler, DatabaseUnavailableError if it is in use.
    """
    _refuse_pooler(settings)
    with open_reader(settings) as target:
        warning = encoding_warning(target.read("SHOW server_encoding")[0][0])
        if warning is not None:
            raise CopyError(f"{warning}: make the target WITH ENCODING 'UTF8' TEMPLATE template0")
        if missing := target.find_missing_right():
            raise CopyError(f"the target's role may not make tables: {missing}")
        _lock(target)
        yield target


@contextmanager
def open_reader(settings: DatabaseSettings) -> Iterator[Target]:
    """Open another connection to a database that `open_target` has opened."""
    with open_connection(settings) as connection:
        driver: Any = connection.connection.driver_connection
        yield Target(driver)


def _refuse_pooler(settings: DatabaseSettings) -> None:
    try:
        check_migration_connections(settings)
    except PoolerError as error:
        variable = settings.database_migration_target.chosen_by
        raise DatabaseSettingsError(
            f"{variable}: a copy can't go through a transaction pooler (PgBouncer); name the "
            "database itself"
        ) from error


def _lock(target: Target) -> None:
    # The server may need a moment to notice that the client of the last copy was killed.
    for _ in range(50):
        if target.read("SELECT pg_try_advisory_lock(%s)", LOCK_KEY)[0][0]:
            return
        time.sleep(0.1)
    raise DatabaseUnavailableError("another copy to this database is under way: wait")
