"""SQLite's values as PostgreSQL writes them, or why it would refuse them.

A value is stored by SQLite as SQLAlchemy's type has it there: a moment is a text, an interval the
moment that far after 1970, a UUID 32 digits. Text is that of COPY, in the form in which PostgreSQL
gives it back, so that both sides can be compared.
"""

import re
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from .documents import convert_json, convert_jsonb, convert_texts, create_array_converter
from .errors import CORRECT, RefusedValueError, check_classes
from .moments import convert_dates, convert_intervals, convert_times, create_moment_converter
from .target import TargetColumn

# Takes many values of a column, none of them NULL: most steps are one call for all of them.
Convert = Callable[[Sequence[Any]], Sequence[str]]

NULL = "\\N"
_ESCAPES = tuple(
    (one, f"\\{letter}") for one, letter in zip("\\\n\t\r\b\f\v", "\\ntrbfv", strict=True)
)
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_DECIMALS = Context(prec=1100)
# Of a numeric without a precision, behind the point.
_MOST_DIGITS = 16_000
# More than this, in hexadecimal digits, is no field of PostgreSQL's.
_MOST_BYTES = 500_000_000


def escape(texts: Sequence[str]) -> Sequence[str]:
    """Return texts as COPY has them."""
    together = "".join(texts)
    for special, escaped in _ESCAPES:
        if special in together:
            texts = [text.replace(special, escaped) for text in texts]
    return texts


def create_converter(column: TargetColumn) -> Convert:
    """Return what converts the values of a column, but NULL. It may raise RefusedValueError."""
    if column.is_enum:
        return _create_enum_converter(frozenset(column.members))
    match column.kind:
        case "int2" | "int4" | "int8":
            return _create_integer_converter(8 * int(column.kind[-1]))
        case "numeric":
            return _create_numeric_converter(column)
        case "bytea":
            # Of a domain it is a value that the server is asked for, else a field of COPY.
            return _create_bytes_converter("\\x" if column.is_domain else "\\\\x")
        case "varchar" | "bpchar":
            return _create_text_converter(column.kind, column.modifier - 4)
        case "timestamptz" | "timestamp":
            return create_moment_converter(column.kind == "timestamptz")
        case kind if kind.startswith("_"):
            return create_array_converter(kind)
        case kind:
            return _CONVERTERS.get(kind, _convert_others)


def is_text(column: TargetColumn) -> bool:
    """Return whether a converted value may hold what COPY escapes, and may be large."""
    return column.is_enum or column.kind not in _PLAIN


def is_written_alike(column: TargetColumn) -> bool:
    """Return whether a converted value is as PostgreSQL writes it; else the server is asked."""
    if column.is_domain:
        return False
    if column.kind in ("time", "timestamp", "timestamptz"):
        return column.modifier == -1
    return column.is_enum or column.kind in _WRITTEN_ALIKE


def _create_text_converter(kind: str, length: int) -> Convert:
    limit = length if length > 0 else (1 if kind == "bpchar" else None)

    def convert_bounded_texts(values: Sequence[Any]) -> Sequence[str]:
        texts = convert_texts(values)
        if limit is None:
            return texts
        if max(map(len, texts), default=0) > limit:
            raise RefusedValueError(
                f"a text of more than {limit} characters",
                f"shorten it: UPDATE {{table}} SET {{column}} = substr({{column}}, 1, {limit}) "
                f"WHERE length({{column}}) > {limit}; or raise the length in a migration",
            )
        return [text.ljust(limit) for text in texts] if kind == "bpchar" else texts

    return convert_bounded_texts


def _create_enum_converter(members: frozenset[str]) -> Convert:
    def convert_members(values: Sequence[Any]) -> Sequence[str]:
        if not members.issuperset(values):
            raise RefusedValueError(
                "no member of the enum", f"{CORRECT}, or add the member in a migration"
            )
        return values

    return convert_members


def _create_integer_converter(bits: int) -> Convert:
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def convert_integers(values: Sequence[Any]) -> Sequence[str]:
        check_classes(values, "integers", int)
        if min(values, default=0) < lowest or max(values, default=0) > highest:
            raise RefusedValueError(
                f"an integer of more than {bits} bits",
                f"{CORRECT}, or make the column a BigInteger in a migration",
            )
        return [*map(str, values)]

    return convert_integers


def _convert_booleans(values: Sequence[Any]) -> Sequence[str]:
    if {*map(type, values)} - {int} or {*values} - {0, 1}:
        raise RefusedValueError("neither 0 nor 1 in a column of booleans", CORRECT)
    return [*map("ft".__getitem__, values)]


def _convert_floats(values: Sequence[Any]) -> Sequence[str]:
    check_classes(values, "floats", int, float)
    return [*map(repr, map(float, values))]


def _create_numeric_converter(column: TargetColumn) -> Convert:
    if column.modifier == -1:
        return lambda values: [_write_decimal(_read_decimal(value)) for value in values]
    precision, scale = column.precision, column.scale
    limit, unit = Decimal(10) ** (precision - scale), Decimal(1).scaleb(-scale)

    def convert_numerics(values: Sequence[Any]) -> Sequence[str]:
        # The usual case, three times as fast: so few digits that a float is one number of them.
        if 0 <= scale <= precision <= 15 and not {*map(type, values)} - {int, float}:
            texts = (f"%.{scale}f\n" * len(values) % tuple(values)).splitlines()
            is_same = [*map(float, texts)] == [*values] and f"{-0.0:.{scale}f}" not in texts
            if is_same and max(map(abs, values), default=0) < limit:
                return texts
        return [*map(convert_numeric, values)]

    def convert_numeric(value: Any) -> str:
        number = _read_decimal(value)
        if abs(number) < limit:
            number = number.quantize(unit, ROUND_HALF_UP, _DECIMALS)
        if abs(number) >= limit:
            raise RefusedValueError(
                f"a number of more than {precision} digits, {scale} of them decimals",
                f"{CORRECT}, or raise the precision in a migration",
            )
        return _write_decimal(number)

    return convert_numerics


def _write_decimal(number: Decimal) -> str:
    return format(number if number else abs(number), "f")


def _read_decimal(value: Any) -> Decimal:
    if type(value) is not str or not _DECIMAL.fullmatch(value):
        check_classes([value], "numbers", int, float)
    number = Decimal(repr(value) if type(value) is float else value)
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise RefusedValueError("infinity, or a number of too many digits", CORRECT)
    return number


def _create_bytes_converter(prefix: str) -> Convert:
    def convert_bytes(values: Sequence[Any]) -> Sequence[str]:
        check_classes(values, "bytes", bytes)
        if max(map(len, values), default=0) > _MOST_BYTES:
            raise RefusedValueError("more bytes than PostgreSQL takes, 500 MB", "keep it in a file")
        return [prefix + value.hex() for value in values]

    return convert_bytes


def _convert_uuids(values: Sequence[Any]) -> Sequence[str]:
    check_classes(values, "UUIDs", str)
    digits = [value.replace("-", "").lower() for value in values]
    try:
        data = bytes.fromhex("".join(digits))
    except ValueError:
        data = b""
    if len(data) != 16 * len(values):
        raise RefusedValueError("no UUID", CORRECT)
    return [f"{one[:8]}-{one[8:12]}-{one[12:16]}-{one[16:20]}-{one[20:]}" for one in digits]


def _convert_others(values: Sequence[Any]) -> Sequence[str]:
    """Return values of a type that only the server knows."""
    return convert_texts([str(one) if type(one) in (int, float) else one for one in values])


_CONVERTERS: dict[str, Convert] = {
    "bool": _convert_booleans,
    "date": convert_dates,
    "float4": _convert_floats,
    "float8": _convert_floats,
    "interval": convert_intervals,
    "json": convert_json,
    "jsonb": convert_jsonb,
    "text": convert_texts,
    "time": convert_times,
    "uuid": _convert_uuids,
}
_PLAIN = {
    *("bool", "int2", "int4", "int8", "numeric", "float4", "float8", "uuid"),
    *("date", "time", "timestamp", "timestamptz", "interval"),
}
_WRITTEN_OTHERWISE = {"float4", "float8", "interval", "jsonb"}
_WRITTEN_ALIKE = {*_CONVERTERS, *_PLAIN, "bytea", "varchar", "bpchar"} - _WRITTEN_OTHERWISE
