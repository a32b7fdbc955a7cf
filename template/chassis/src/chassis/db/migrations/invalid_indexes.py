"""Indexes that a failed CREATE INDEX CONCURRENTLY left: kept up, and used by no query."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from .connect import open_connection

if TYPE_CHECKING:
    from ..address.settings import DatabaseSettings

_INVALID = text("""
    SELECT format('%I.%I', n.nspname, c.relname), format('%I.%I', n.nspname, t.relname)
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname NOT LIKE 'pg\\_%'
    AND NOT EXISTS (
        SELECT FROM pg_locks l WHERE l.relation = i.indrelid
        AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
    )
    ORDER BY 1
""")


def find_invalid_indexes(settings: "DatabaseSettings") -> list[tuple[str, str]]:
    """Return what is wrong and its cure for each invalid index of the database."""
    with open_connection(settings) as connection:
        return list(describe_invalid_indexes(connection))


def describe_invalid_indexes(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield what is wrong and its cure for each invalid index that nobody is making just now."""
    if connection.dialect.name != "postgresql":
        return
    for index, table in connection.execute(_INVALID):
        yield (
            f"the index {index} of {table} is INVALID: its CREATE INDEX CONCURRENTLY failed",
            f"DROP INDEX CONCURRENTLY {index}, then migrate again; where its revision was applied, "
            f"REINDEX INDEX CONCURRENTLY {index}",
        )
