"""The column types of the chassis's dialects, each for one difference of the two databases.

Both take a value alike, or refuse it alike: the guide has the table. One of another type is a
TypeError, as by asyncpg: a bug. A model goes on to name SQLAlchemy's types; a dialect uses these in
their place (its `colspecs`).
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal
from operator import index
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.types import (
    JSON,
    BigInteger,
    DateTime,
    Enum,
    Float,
    Integer,
    NullType,
    Numeric,
    SmallInteger,
    String,
    Time,
    TypeEngine,
)

from .errors import InvalidValueError, TimeZoneError

Replacements = dict[type[Any], type[TypeEngine[Any]]]

_Process = Callable[[Any], Any] | None
# The digits of any decimal number that a double keeps, and those of PostgreSQL's numeric.
_DOUBLE_DIGITS, _NUMERIC_DIGITS = 15, 1000
_NUMERIC_CONTEXT = Context(prec=_NUMERIC_DIGITS)
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def replace_types(
    colspecs: Mapping[type[Any], type[Any]], ours: tuple[type[TypeEngine[Any]], ...]
) -> Replacements:
    """Return a dialect's map of general types to its own, with the chassis's types in front.

    Each of ours extends one general type, such as DateTime. It is combined with what the dialect
    has for this type and its kinds: the chassis checks a value, then the dialect stores it.
    """
    replaced: Replacements = dict(colspecs)
    # No dialect has implementations of these, and an Integer can't tell how wide they are.
    kinds: dict[type[Any], type[Any]] = {
        SmallInteger: SmallInteger,
        BigInteger: BigInteger,
        **colspecs,
    }
    for checked in ours:
        general = checked.__mro__[1]
        for key, implementation in {general: general, **kinds}.items():
            if issubclass(key, general):
                replaced[key] = type(checked.__name__, (checked, implementation), {})
    return replaced


class ZonedDateTime(DateTime):
    """Stores a moment: SQLite would drop its time zone, PostgreSQL's drivers would guess one.

    A datetime without a time zone is refused if the column has one, and the reverse.
    """

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


class ZonedTime(Time):
    """Refuses a time whose time zone would be lost or guessed: SQLite has no time with a zone."""

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


class NullableJSON(JSON):
    """Stores None as NULL: SQLAlchemy stores JSON's null, which no `IS NULL` finds.

    `JSON.NULL` is JSON's null.
    """

    def bind_processor(self, dialect: Dialect) -> _Process:
        store: _Process = super().bind_processor(dialect)  # type: ignore[no-untyped-call]
        return None if store is None else lambda value: None if value is None else store(value)


class ExactNumeric(Numeric[Any]):
    """Refuses numbers that SQLite would round, as it stores a double, and those above precision."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store: _Process = super().bind_processor(dialect)  # type: ignore[no-untyped-call]
        limit = _find_limit(self.precision, self.scale)

        def process(value: Any) -> Any:
            if isinstance(value, str):
                value = Decimal(value)
            if isinstance(value, Decimal) and not (
                value.is_finite() and Decimal(repr(float(value))) == value
            ):
                raise InvalidValueError(
                    "SQLite holds 15 digits of a Numeric, and no NaN: count in integers"
                )
            if isinstance(value, Decimal | int | float) and (value >= limit or value <= -limit):
                raise InvalidValueError(f"the column has {self.precision} digits")
            return value if store is None else store(value)

        return process

    def result_processor(self, dialect: Dialect, coltype: object) -> _Process:
        # SQLAlchemy returns the double's binary digits, and ten decimals if there is no scale.
        is_exact = self.scale is not None and (self.precision or _NUMERIC_DIGITS) <= _DOUBLE_DIGITS
        if is_exact or not self.asdecimal:
            load: _Process = super().result_processor(dialect, coltype)  # type: ignore[no-untyped-call]
            return load
        unit = None if self.scale is None else Decimal(1).scaleb(-self.scale)

        def process(value: Any) -> Decimal | None:
            if value is None:
                return None
            number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
            return number if unit is None else number.quantize(unit, context=_NUMERIC_CONTEXT)

        return process


class FloatWithoutNaN(Float[Any]):
    """Refuses NaN, which SQLite stores as NULL without a word."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        store: _Process = super().bind_processor(dialect)  # type: ignore[no-untyped-call]

        def process(value: Any) -> Any:
            if isinstance(value, str):
                raise TypeError("must be real number, not str")
            _refuse_nan(value)
            return value if store is None else store(value)

        return process


class KnownEnum(Enum):
    """Refuses a string that is no member, as PostgreSQL does: SQLite stores any."""

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


class UntypedValue(NullType):
    """Stores a datetime of a textual statement as a column would: sqlite3 has another format."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        def process(value: Any) -> Any:
            _refuse_nan(value)
            if isinstance(value, datetime):
                moment = value if value.tzinfo is None else value.astimezone(UTC)
                return moment.replace(tzinfo=None).isoformat(" ", "microseconds")
            return value.isoformat() if isinstance(value, date) else value

        return process


class BoundedInteger(Integer):
    """Refuses more bits, as each integer of SQLite has 64, and fractions, which asyncpg cuts."""

    def bind_processor(self, dialect: Dialect) -> _Process:
        bits = 16 if isinstance(self, SmallInteger) else 64 if isinstance(self, BigInteger) else 32
        lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

        def process(value: Any) -> int | None:
            if value is None:
                return None
            is_whole = isinstance(value, float | Decimal) and value == value // 1
            number = int(value) if is_whole else index(value)
            if not lowest <= number <= highest:
                raise InvalidValueError(f"the column is an integer of {bits} bits")
            return number

        return process


# What differs on PostgreSQL, and what differs on SQLite.
POSTGRES_TYPES = (ZonedDateTime, ZonedTime, NullableJSON, BoundedInteger)


class TextWithoutNUL(String):
    """Refuses a NUL, as PostgreSQL does.

    Its length is not checked: PostgreSQL takes a longer text in a condition, and a type can't tell
    a condition from an INSERT.
    """

    def bind_processor(self, dialect: Dialect) -> _Process:
        return _check_text


SQLITE_TYPES = (
    *POSTGRES_TYPES,
    ExactNumeric,
    FloatWithoutNaN,
    KnownEnum,
    UntypedValue,
    TextWithoutNUL,
)


def dump_json(value: Any) -> str:
    """Return JSON that both databases can read: no NaN, no NUL, no half of a surrogate pair."""
    try:
        text = json.dumps(value, allow_nan=False)
        if has_nul(text):
            raise ValueError("a text holds a NUL")
        if "\\ud" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"no JSON of a database: {error}") from error
    return text


def has_nul(document: str) -> bool:
    """Return whether a JSON document holds a NUL, which PostgreSQL's JSONB refuses."""
    return "\\u0000" in document and _NUL_IN_JSON.search(document) is not None


def _refuse_nan(value: object) -> None:
    if isinstance(value, float) and value != value:
        raise InvalidValueError("SQLite has no NaN")


def _check_text(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"expected str, got {type(value).__name__}")
    if value and "\0" in value:
        raise InvalidValueError("a text of a database holds no NUL")
    return value


def _find_limit(precision: int | None, scale: int | None) -> Decimal:
    """Return the least number that a Numeric, which rounds to its scale, has no digits for."""
    if precision is None:
        return Decimal("Infinity")
    places = scale or 0
    return Decimal(10) ** (precision - places) - Decimal(5).scaleb(-places - 1)
