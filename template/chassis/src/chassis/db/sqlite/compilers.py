"""How the chassis's SQLite dialects write SQL: as PostgreSQL means it, or not at all.

SQLite has no type for a date. It calculates with the year of its text, without an error, so that
`created > now() - 30 days` is true of every row.
"""

from datetime import date, time, timedelta
from typing import Any

from sqlalchemy import BinaryExpression, Cast, Column, Date, DateTime, Interval, Time
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler, SQLiteDDLCompiler, SQLiteTypeCompiler
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import operators
from sqlalchemy.types import TypeDecorator, TypeEngine

# In the format of a datetime that Python stores, else the same moment is not equal to itself.
NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_ARITHMETIC = (operators.add, operators.sub, operators.mul, operators.truediv)
_TIMES = (date, time, timedelta)
_ADVICE = "do it in Python, as in datetime.now(UTC) - timedelta(days=30)"


class ChassisSQLiteCompiler(SQLiteCompiler):
    """Writes the current moment as moments are stored, and refuses to calculate with them."""

    def visit_now_func(self, fn: Any, **options: Any) -> str:
        return NOW

    visit_current_timestamp_func = visit_now_func

    def visit_binary(self, binary: BinaryExpression[Any], *others: Any, **options: Any) -> str:
        if binary.operator in _ARITHMETIC and (
            _is_time(binary.left.type) or _is_time(binary.right.type)
        ):
            raise CompileError(f"SQLite can't calculate with dates and times: {_ADVICE}")
        written: str = super().visit_binary(binary, *others, **options)  # type: ignore[no-untyped-call]
        return written

    def visit_cast(self, cast: Cast[Any], **options: Any) -> str:
        if isinstance(cast.type, Date):
            return f"date({self.process(cast.clause, **options)})"
        if isinstance(cast.type, DateTime | Time | Interval):
            raise CompileError(f"SQLite can't cast to {type(cast.type).__name__}: {_ADVICE}")
        written: str = super().visit_cast(cast, **options)  # type: ignore[no-untyped-call]
        return written


class ChassisSQLiteDDLCompiler(SQLiteDDLCompiler):
    """Writes default moments as they are stored, and partial unique indexes as partial ones."""

    def get_column_default_string(self, column: Column[Any]) -> str | None:
        """Return CURRENT_TIMESTAMP in the format of a datetime that Python stores."""
        default = super().get_column_default_string(column)
        if default is None or not isinstance(_implementation(column.type), DateTime):
            return default
        return NOW if default.strip("() ").upper() == "CURRENT_TIMESTAMP" else default

    def visit_create_index(self, create: Any, *others: Any, **options: Any) -> str:
        """Return the statement with PostgreSQL's condition: without it more rows are refused."""
        written: str = super().visit_create_index(create, *others, **options)  # type: ignore[no-untyped-call]
        given = create.element.dialect_options
        condition = given["postgresql"]["where"]
        if not create.element.unique or condition is None or given["sqlite"]["where"] is not None:
            return written
        sql = self.sql_compiler.process(condition, include_table=False, literal_binds=True)
        return f"{written} WHERE {sql}"


class ChassisSQLiteTypeCompiler(SQLiteTypeCompiler):
    """Writes INTEGER, which has 64 bits, for BIGINT: only an INTEGER PRIMARY KEY gets numbers."""

    def visit_BIGINT(self, type_: Any, **options: Any) -> str:  # noqa: N802
        return "INTEGER"

    visit_SMALLINT = visit_BIGINT  # noqa: N815


def _is_time(kind: TypeEngine[Any]) -> bool:
    try:
        return issubclass(_implementation(kind).python_type, _TIMES)
    except NotImplementedError:
        return False


def _implementation(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind
