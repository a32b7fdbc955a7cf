"""How the chassis's SQLite dialects write SQL: as PostgreSQL means it, or not at all.

SQLite has no type for a date. It calculates with the year of its text, without an error, so that
`created > now() - 30 days` is true of every row.
"""

import sqlite3
from datetime import date, time, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BinaryExpression,
    BindParameter,
    Boolean,
    Cast,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    FunctionFilter,
    Grouping,
    Integer,
    Interval,
    Numeric,
    String,
    Table,
    Time,
    Uuid,
)
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler, SQLiteDDLCompiler, SQLiteTypeCompiler
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import functions, operators
from sqlalchemy.types import TypeDecorator, TypeEngine

# In the format of a datetime that Python stores, else the same moment is not equal to itself.
NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_ARITHMETIC = (operators.add, operators.sub, operators.mul, operators.truediv)
_COMPARISONS = (
    *(operators.eq, operators.ne, operators.lt, operators.le, operators.gt, operators.ge),
    *(operators.in_op, operators.not_in_op),
)
_COMPARABLE = (
    *((Boolean,), (Integer, Numeric, Float), (Date, DateTime)),
    *((Uuid,), (JSON,), (String,)),
)
_HAS_ARROW = sqlite3.sqlite_version_info >= (3, 38)
_DOUBLE_DIGITS = 15
# Times a sum of one digit more than a double holds, it is above 64 bits.
_OVERFLOW = 2**63 // 10**_DOUBLE_DIGITS
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
        if binary.operator in _COMPARISONS:
            _check_comparison(binary.left, binary.right)
        written: str = super().visit_binary(binary, *others, **options)  # type: ignore[no-untyped-call]
        return written

    def visit_json_getitem_op_binary(self, binary: Any, *others: Any, **options: Any) -> str:
        """Write a part of a document as JSON: NULL if there is none, and true, which is no 1."""
        if not _HAS_ARROW or not isinstance(_implementation(binary.type), JSON):
            return str(super().visit_json_getitem_op_binary(binary, *others, **options))  # type: ignore[no-untyped-call]
        document, path = (self.process(side, **options) for side in (binary.left, binary.right))
        return f"({document} -> {path})"

    visit_json_path_getitem_op_binary = visit_json_getitem_op_binary

    def visit_cast(self, cast: Cast[Any], **options: Any) -> str:
        if isinstance(cast.type, Date):
            return f"date({self.process(cast.clause, **options)})"
        if isinstance(cast.type, DateTime | Time | Interval):
            raise CompileError(f"SQLite can't cast to {type(cast.type).__name__}: {_ADVICE}")
        written: str = super().visit_cast(cast, **options)  # type: ignore[no-untyped-call]
        return written

    def visit_sum_func(self, fn: Any, whole: Any = None, **options: Any) -> str:
        """Add the amounts of a Numeric as integers of its smallest unit: doubles lose cents.

        A sum of more than 15 digits, which no double holds, is an integer overflow.
        """
        scale = _find_exact_scale(fn)
        if scale is None:
            return f"sum{self.function_argspec(fn, **options)}"
        amount = self.process(fn.clauses, **options)
        total = f"sum(CAST(round(({amount}) * {10**scale}) AS INTEGER) * {_OVERFLOW})"
        return total if whole is fn else _divide(total, scale)

    def visit_over(self, over: Any, **options: Any) -> str:
        return self._visit_around(super().visit_over, over, over.element, options)

    def visit_funcfilter(self, funcfilter: Any, **options: Any) -> str:
        return self._visit_around(super().visit_funcfilter, funcfilter, funcfilter.func, options)

    def _visit_around(self, visit: Any, outer: Any, inner: Any, options: dict[str, Any]) -> str:
        """Write a window or a filter, and divide the sum in it after it, unless a window will."""
        is_inside = options.pop("whole", None) is outer
        function = inner.func if isinstance(inner, FunctionFilter) else inner
        scale = _find_exact_scale(function) if isinstance(function, functions.sum) else None
        if scale is None:
            return str(visit(outer, **options))
        written: str = visit(outer, whole=inner, **options)
        return written if is_inside else _divide(written, scale)


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
    """Writes types by names that SQLite does not take for those of other values."""

    def visit_BIGINT(self, type_: Any, **options: Any) -> str:  # noqa: N802
        """Return INTEGER, which has 64 bits: only an INTEGER PRIMARY KEY gets numbers."""
        return "INTEGER"

    visit_SMALLINT = visit_BIGINT  # noqa: N815

    def visit_UUID(self, type_: Any, **options: Any) -> str:  # noqa: N802
        """Return a type of text: in a column of type UUID digits alone are stored as a number."""
        return "CHAR(32)"


def _check_comparison(left: Any, right: Any) -> None:
    """Raise CompileError for a value of another type than what it is compared with."""
    kinds = _find_kind(left.type), _find_kind(right.type)
    is_value = isinstance(left, BindParameter) or isinstance(right, BindParameter)
    if is_value and None not in kinds and kinds[0] is not kinds[1]:
        names = [type(_implementation(side.type)).__name__ for side in (left, right)]
        raise CompileError(
            f"{' and '.join(names)} are compared, which PostgreSQL refuses: convert the value, as "
            "in int(value), or the column, by cast(…) or in JSON by .as_string()"
        )


def _find_kind(kind: TypeEngine[Any]) -> tuple[type[Any], ...] | None:
    """Return the types that PostgreSQL compares with a type; None if that is not known."""
    found = _implementation(kind)
    if isinstance(found, Enum):
        return None
    return next((kinds for kinds in _COMPARABLE if isinstance(found, kinds)), None)


def _divide(total: str, scale: int) -> str:
    return f"({total} / {_OVERFLOW} / {10**scale}.0)"


def _find_exact_scale(fn: Any) -> int | None:
    """Return the decimals of a sum, if all that is added has as many, and a double holds it."""
    kind = _implementation(fn.type)
    if not isinstance(kind, Numeric) or isinstance(kind, Float) or kind.scale is None:
        return None
    return kind.scale if all(_has_scale(each, kind.scale) for each in fn.clauses) else None


def _has_scale(term: Any, scale: int) -> bool:
    """Return whether a term is of columns of that scale and of integers, which keep it."""
    if isinstance(term, Grouping):
        return _has_scale(term.element, scale)
    kind = _implementation(term.type)
    if isinstance(kind, Integer):
        return True
    if isinstance(term, BinaryExpression):
        sides = (term.left, term.right)
        is_multiple = term.operator is operators.mul and any(
            isinstance(_implementation(side.type), Integer) for side in sides
        )
        is_kept = is_multiple or term.operator in (operators.add, operators.sub)
        return is_kept and all(_has_scale(side, scale) for side in sides)
    is_column = all(isinstance(getattr(each, "table", None), Table) for each in term.base_columns)
    if not is_column or not isinstance(kind, Numeric):
        return False
    return kind.scale == scale and (kind.precision or _DOUBLE_DIGITS + 1) <= _DOUBLE_DIGITS


def _is_time(kind: TypeEngine[Any]) -> bool:
    try:
        return issubclass(_implementation(kind).python_type, _TIMES)
    except NotImplementedError:
        return False


def _implementation(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind
