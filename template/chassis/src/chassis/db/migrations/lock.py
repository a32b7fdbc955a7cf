"""The lock of migrations: one runner at a time, whatever the revisions do."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text

from ..errors import DatabaseUnavailableError
from .connect import open_engine, refuse_noticed_pooler

if TYPE_CHECKING:
    from ..address.settings import DatabaseSettings

# Any number that nothing else in the database uses: ASCII "chassis" as an integer.
LOCK_KEY = int.from_bytes(b"chassis", "big")
_POLL_SECONDS = 0.2


@contextmanager
def hold_lock(engine: Engine, settings: "DatabaseSettings") -> Iterator[None]:
    """Hold the lock that lets one runner migrate at a time.

    The lock is polled on a connection of its own that is in no transaction: a transaction's lock
    would stop CREATE INDEX CONCURRENTLY, and a blocking wait would deadlock with it. SQLite needs
    none: BEGIN IMMEDIATE queues the runners, and each reads the head inside it.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    target = settings.database_migration_target
    with open_engine(engine, target) as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        with open_engine(engine, target) as other:
            refuse_noticed_pooler(connection, other)
        _acquire_lock(connection, settings.database_wait_seconds)
        yield


def _acquire_lock(connection: Connection, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
        if time.monotonic() > deadline:
            raise DatabaseUnavailableError(
                "another migration holds the lock; wait for it, or raise APP_DATABASE_WAIT_SECONDS"
            )
        time.sleep(_POLL_SECONDS)
