"""Indexes as the database has them: over expressions, in any order, under a condition."""

import re
from typing import Any

from alembic.operations.ops import DropIndexOp, ExecuteSQLOp
from sqlalchemy import Connection, text

from .defaults import strip_casts, strip_parentheses

# By schema and name.
IndexStatements = dict[tuple[str | None, str], tuple[str, str]]

_SQLITE = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
_POSTGRES = """
    SELECT schemaname, indexname, tablename, indexdef FROM pg_indexes
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


class DropIndex(DropIndexOp):
    """The removal of an index that goes back to the statement that made it."""

    def __init__(self, name: str, table: str, schema: str | None, statement: str) -> None:
        super().__init__(name, table, schema=schema)
        self._statement = statement

    def reverse(self) -> Any:
        """Return what makes the index again."""
        return ExecuteSQLOp(self._statement)


def read_index_statements(connection: Connection) -> IndexStatements:
    """Return the table and the CREATE statement of each index, as both engines take it."""
    if connection.dialect.name == "sqlite":
        return {
            (None, name): (table, sql) for name, table, sql in connection.exec_driver_sql(_SQLITE)
        }
    default = connection.dialect.default_schema_name
    return {
        (None if schema == default else schema, name): (
            table,
            _make_portable(statement, is_default=schema == default),
        )
        for schema, name, table, statement in connection.execute(text(_POSTGRES))
    }


def _make_portable(statement: str, *, is_default: bool) -> str:
    """Leave out what PostgreSQL adds to what was written."""
    if is_default:
        statement = re.sub(r" ON (ONLY )?(?:\w+|\"[^\"]+\")\.", r" ON \1", statement, count=1)
    statement = strip_casts(statement.replace(" USING btree", "", 1))
    head, word, condition = statement.partition(" WHERE ")
    return f"{head}{word}{strip_parentheses(condition)}"
