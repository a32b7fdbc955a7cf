"""Which foreign key was broken: SQLite does not say, so the rows that it refused are looked at."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, ForeignKeyConstraint, Insert, Table, Update, exists, select
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import StatementError

from ..errors import sqlite_error_name

MESSAGE = "FOREIGN KEY constraint failed: "


def name_broken_foreign_key(context: ExceptionContext) -> None:
    """Add the columns of the broken foreign key to the error of an INSERT or UPDATE of values."""
    name = sqlite_error_name(context.original_exception)
    error, connection = context.sqlalchemy_exception, context.connection
    if name == "SQLITE_CONSTRAINT_FOREIGNKEY" and connection and error:
        for key in _find_candidates(context.execution_context, connection):
            assert isinstance(error, StatementError)
            columns = (f"{key.table.name}.{column.name}" for column in key.columns)
            error.add_detail(MESSAGE + ", ".join(columns))
            break


def _find_candidates(context: Any, connection: Connection) -> Iterator[ForeignKeyConstraint]:
    """Yield the foreign keys of a statement's table whose values lead to no row."""
    statement = getattr(getattr(context, "compiled", None), "statement", None)
    if not isinstance(statement, Insert | Update) or not isinstance(statement.table, Table):
        return
    keys = sorted(statement.table.foreign_key_constraints, key=lambda key: tuple(key.column_keys))
    rows = context.compiled_parameters
    for values in rows:
        for key in keys:
            if key.referred_table.fullname == statement.table.fullname and len(rows) > 1:
                # The row may be one of those that were refused together with this one.
                continue
            sought = {part.column: values.get(part.parent.key) for part in key.elements}
            if None not in sought.values() and not connection.scalar(
                select(exists().where(*(column == value for column, value in sought.items())))
            ):
                yield key
