"""The dialects of the chassis's engines: both databases take a value alike, or refuse it alike.

SQLAlchemy's own differ without a word. SQLite's drops the time zone of a datetime, PostgreSQL's
drivers guess one; `None` is JSON's null on both, and no row where a column `IS NULL`; an INSERT
finds no number for a BIGINT PRIMARY KEY of SQLite, which takes any string for an enum and rounds
long numbers.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal
from typing import Any

from sqlalchemy import URL, Dialect
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.types import JSON, DateTime, Enum, Float, NullType, Numeric, Time, TypeEngine

from .errors import InvalidValueError, ReadOnlySessionError, TimeZoneError
from .sqlite.compilers import (
    ChassisSQLiteCompiler,
    ChassisSQLiteDDLCompiler,
    ChassisSQLiteTypeCompiler,
)
from .statements import TimesCommits

_Process = Callable[[Any], Any] | None
_Types = dict[type[Any], type[TypeEngine[Any]]]
# What a double holds of any decimal number; and the digits that PostgreSQL's numeric has.
_SAFE_DIGITS, _MORE = 15, 1000
_CONTEXT = Context(prec=_MORE)


def with_chassis_types(url: URL) -> URL:
    """Return the URL with the chassis's dialect for its driver, if there is one."""
    name = _DIALECTS.get(url.drivername)
    return url if name is None else url.set(drivername=name)


class _ZonedDateTime(DateTime):
    """Refuses a datetime whose time zone the column would lose or have to guess."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store = super().bind_processor(dialect)
        needs_zone = self.timezone
        on_sqlite = dialect.name == "sqlite"

        def process(value: Any) -> Any:
            if isinstance(value, date):
                if needs_zone != (getattr(value, "tzinfo", None) is not None):
                    raise TimeZoneError(value)
                if needs_zone and on_sqlite:
                    value = value.astimezone(UTC)  # type: ignore[attr-defined]
            return value if store is None else store(value)

        return process

    def result_processor(self, dialect: Dialect, coltype: object) -> _Process:
        load = super().result_processor(dialect, coltype)
        if load is None or not self.timezone or dialect.name != "sqlite":
            return load

        def process(value: Any) -> datetime | None:
            moment: datetime | None = load(value)
            if moment is None:
                return None
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

        return process


class _ZonedTime(Time):
    """Refuses a time whose time zone the column would lose or have to guess; SQLite has none."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store = super().bind_processor(dialect)
        needs_zone = self.timezone
        on_sqlite = dialect.name == "sqlite"

        def process(value: Any) -> Any:
            if isinstance(value, time):
                has_zone = value.tzinfo is not None
                if has_zone != needs_zone or (has_zone and on_sqlite):
                    raise TimeZoneError(value)
            return value if store is None else store(value)

        return process


class _NullableJSON(JSON):
    """Stores None as NULL; `JSON.NULL` is JSON's null."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store: _Process = super().bind_processor(dialect)  # type: ignore[no-untyped-call]
        return None if store is None else lambda value: None if value is None else store(value)


class _ExactNumeric(Numeric[Any]):
    """Refuses what a double, as SQLite has it, holds no more; gives back what it was given."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store: _Process = super().bind_processor(dialect)  # type: ignore[no-untyped-call]

        def process(value: Any) -> Any:
            if isinstance(value, Decimal) and not (
                value.is_finite() and Decimal(repr(float(value))) == value
            ):
                raise InvalidValueError(
                    "SQLite holds 15 digits of a Numeric, and no NaN: count in integers"
                )
            return value if store is None else store(value)

        return process

    def result_processor(self, dialect: Dialect, coltype: object) -> _Process:
        # SQLAlchemy writes the double's binary digits, and ten decimals if there is no scale.
        is_exact = self.scale is not None and (self.precision or _MORE) <= _SAFE_DIGITS
        if is_exact or not self.asdecimal:
            load: _Process = super().result_processor(dialect, coltype)  # type: ignore[no-untyped-call]
            return load
        unit = None if self.scale is None else Decimal(1).scaleb(-self.scale)

        def process(value: Any) -> Decimal | None:
            if value is None:
                return None
            number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
            return number if unit is None else number.quantize(unit, context=_CONTEXT)

        return process


class _NumericFloat(Float[Any]):
    """Refuses NaN, of which SQLite makes NULL without a word."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store: _Process = super().bind_processor(dialect)  # type: ignore[no-untyped-call]

        def process(value: Any) -> Any:
            _refuse_nan(value)
            return value if store is None else store(value)

        return process


def _refuse_nan(value: object) -> None:
    if isinstance(value, float) and value != value:
        raise InvalidValueError("SQLite has no NaN")


class _KnownEnum(Enum):
    """Refuses a string that is no member, as PostgreSQL does: no query could read its row."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store = super().bind_processor(dialect)  # type: ignore[no-untyped-call]
        if not self.native_enum:
            return store  # type: ignore[no-any-return]
        members = {*self.enums, None}

        def process(value: Any) -> Any:
            stored = store(value)
            if stored not in members:
                raise InvalidValueError(f"no member of the enum {self.name}")
            return stored

        return process


class _Untyped(NullType):
    """Stores a value of a textual statement as a column of SQLite would, and not as sqlite3."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        def process(value: Any) -> Any:
            _refuse_nan(value)
            if isinstance(value, datetime):
                moment = value if value.tzinfo is None else value.astimezone(UTC)
                return moment.replace(tzinfo=None).isoformat(" ", "microseconds")
            return value.isoformat() if isinstance(value, date) else value

        return process


def _replace_types(types: Mapping[type[Any], type[Any]], *more: type[TypeEngine[Any]]) -> _Types:
    """Return a dialect's types with the chassis's in front of each that is concerned."""
    concerned: list[type[TypeEngine[Any]]] = [_ZonedDateTime, _ZonedTime, _NullableJSON, *more]
    replaced: _Types = dict(types)
    for ours in concerned:
        general = ours.__mro__[1]
        for key, theirs in {general: general, **types}.items():
            if issubclass(key, general):
                replaced[key] = type(ours.__name__, (ours, theirs), {})
    return replaced


def _replace_types_of_sqlite(types: Mapping[type[Any], type[Any]]) -> _Types:
    replaced = _replace_types(types, _ExactNumeric, _KnownEnum)
    return replaced | {NullType: _Untyped, Float: _NumericFloat}


def _dump_json(value: Any) -> str:
    """Write JSON that both databases can read: no NaN, no half of a surrogate pair."""
    try:
        text = json.dumps(value, allow_nan=False)
        if "\\ud" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"no JSON of a database: {error}") from error
    return text


class _DumpsJSON:
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"json_serializer": _dump_json} | options)


class _RefusesRowLocks:
    """A compiler that refuses FOR UPDATE to a read engine; once compiled, a statement is cached."""

    dialect: Any

    def for_update_clause(self, select: Any, **options: Any) -> str:
        if self.dialect.reads_only:
            raise ReadOnlySessionError("with_for_update() needs a transaction: take DbSession")
        clause: str = super().for_update_clause(select, **options)  # type: ignore[misc]
        return clause


class _PostgresCompiler(_RefusesRowLocks, PGDialect_asyncpg.statement_compiler):  # type: ignore[valid-type,misc]
    pass


class _SQLiteCompiler(_RefusesRowLocks, ChassisSQLiteCompiler):
    pass


class _Serves(TimesCommits):
    """A dialect of a write engine, or of a read engine."""

    def __init__(self, reads_only: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.reads_only = reads_only


class ChassisAsyncpg(_DumpsJSON, _Serves, PGDialect_asyncpg):
    """PostgreSQL at run time."""

    supports_statement_cache = True
    colspecs = _replace_types(PGDialect_asyncpg.colspecs)
    statement_compiler = _PostgresCompiler


class ChassisPsycopg(_DumpsJSON, PGDialect_psycopg):
    """PostgreSQL in migrations."""

    supports_statement_cache = True
    colspecs = _replace_types(PGDialect_psycopg.colspecs)


class ChassisAiosqlite(_DumpsJSON, _Serves, SQLiteDialect_aiosqlite):
    """SQLite at run time."""

    supports_statement_cache = True
    colspecs = _replace_types_of_sqlite(SQLiteDialect_aiosqlite.colspecs)
    statement_compiler = _SQLiteCompiler
    ddl_compiler = ChassisSQLiteDDLCompiler
    type_compiler_cls = ChassisSQLiteTypeCompiler


class ChassisPysqlite(_DumpsJSON, SQLiteDialect_pysqlite):
    """SQLite in migrations."""

    supports_statement_cache = True
    colspecs = _replace_types_of_sqlite(SQLiteDialect_pysqlite.colspecs)
    statement_compiler = ChassisSQLiteCompiler
    ddl_compiler = ChassisSQLiteDDLCompiler
    type_compiler_cls = ChassisSQLiteTypeCompiler


_DIALECTS = {
    "postgresql+asyncpg": "postgresql+chassis_asyncpg",
    "postgresql+psycopg": "postgresql+chassis_psycopg",
    "sqlite+aiosqlite": "sqlite+chassis_aiosqlite",
    "sqlite": "sqlite+chassis_pysqlite",
}
registry.register("postgresql.chassis_asyncpg", __name__, "ChassisAsyncpg")
registry.register("postgresql.chassis_psycopg", __name__, "ChassisPsycopg")
registry.register("sqlite.chassis_aiosqlite", __name__, "ChassisAiosqlite")
registry.register("sqlite.chassis_pysqlite", __name__, "ChassisPysqlite")
