"""SQLite's values as PostgreSQL writes them, or why it would refuse them.

A value is stored by SQLite as SQLAlchemy's type has it there: a moment is a text, an interval the
moment that far after 1970, a UUID 32 digits. Text is that of COPY, in the form in which PostgreSQL
gives it back, so that both sides can be compared.
"""

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from .documents import convert_json, convert_jsonb, convert_text, create_array_converter
from .errors import CORRECT, RefusedValueError, refuse_class
from .moments import convert_date, convert_interval, convert_time, create_moment_converter
from .target import TargetColumn

Convert = Callable[[Any], str]

NULL = "\\N"
_SPECIAL = re.compile(r"[\\\n\t\r\b\f\v]")
_ESCAPES = tuple(
    (one, f"\\{letter}") for one, letter in zip("\\\n\t\r\b\f\v", "\\ntrbfv", strict=True)
)
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{32}")
_DECIMALS = Context(prec=1100)
# Of a numeric without a precision, behind the point.
_MOST_DIGITS = 16_000
# More than this, in hexadecimal digits, is no field of PostgreSQL's.
_MOST_BYTES = 500_000_000


def escape(text: str) -> str:
    """Return a text as COPY has it."""
    if _SPECIAL.search(text):
        for special, escaped in _ESCAPES:
            text = text.replace(special, escaped)
    return text


def create_converter(column: TargetColumn) -> Convert:
    """Return what converts the values of a column, but NULL. Raises RefusedValueError."""
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
            return _CONVERTERS.get(kind, _convert_any)


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

    def convert_bounded_text(value: Any) -> str:
        text = convert_text(value)
        if limit is None:
            return text
        if len(text) > limit:
            raise RefusedValueError(
                f"a text of more than {limit} characters",
                f"shorten it: UPDATE {{table}} SET {{column}} = substr({{column}}, 1, {limit}) "
                f"WHERE length({{column}}) > {limit}; or raise the length in a migration",
            )
        return text.ljust(limit) if kind == "bpchar" else text

    return convert_bounded_text


def _create_enum_converter(members: frozenset[str]) -> Convert:
    def convert_member(value: Any) -> str:
        if value not in members:
            raise RefusedValueError(
                "no member of the enum", f"{CORRECT}, or add the member in a migration"
            )
        return str(value)

    return convert_member


def _create_integer_converter(bits: int) -> Convert:
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def convert_integer(value: Any) -> str:
        if type(value) is not int:
            raise refuse_class(value, "integers")
        if not lowest <= value <= highest:
            raise RefusedValueError(
                f"an integer of more than {bits} bits",
                f"{CORRECT}, or make the column a BigInteger in a migration",
            )
        return str(value)

    return convert_integer


def _convert_boolean(value: Any) -> str:
    if type(value) is not int or value not in (0, 1):
        raise RefusedValueError("neither 0 nor 1 in a column of booleans", CORRECT)
    return "t" if value else "f"


def _convert_float(value: Any) -> str:
    if type(value) not in (int, float):
        raise refuse_class(value, "floats")
    return repr(float(value))


def _create_numeric_converter(column: TargetColumn) -> Convert:
    if column.modifier == -1:
        return lambda value: _write_decimal(_read_decimal(value))
    precision, scale = column.precision, column.scale
    limit, unit = Decimal(10) ** (precision - scale), Decimal(1).scaleb(-scale)

    def convert_numeric(value: Any) -> str:
        if type(value) is float and value:
            # The usual case, three times as fast; neither an exponent nor infinity.
            whole, _, decimals = repr(value).partition(".")
            if len(whole) <= precision - scale and len(decimals) <= scale and decimals.isdigit():
                return f"{whole}.{decimals.ljust(scale, '0')}"
        number = _read_decimal(value)
        if abs(number) < limit:
            number = number.quantize(unit, ROUND_HALF_UP, _DECIMALS)
        if abs(number) >= limit:
            raise RefusedValueError(
                f"a number of more than {precision} digits, {scale} of them decimals",
                f"{CORRECT}, or raise the precision in a migration",
            )
        return _write_decimal(number)

    return convert_numeric


def _write_decimal(number: Decimal) -> str:
    return format(number if number else abs(number), "f")


def _read_decimal(value: Any) -> Decimal:
    is_number = type(value) in (int, float) or (type(value) is str and _DECIMAL.fullmatch(value))
    if not is_number:
        raise refuse_class(value, "numbers")
    number = Decimal(repr(value) if type(value) is float else value)
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise RefusedValueError("infinity, or a number of too many digits", CORRECT)
    return number


def _create_bytes_converter(prefix: str) -> Convert:
    def convert_bytes(value: Any) -> str:
        if type(value) is not bytes:
            raise refuse_class(value, "bytes")
        if len(value) > _MOST_BYTES:
            raise RefusedValueError("more bytes than PostgreSQL takes, 500 MB", "keep it in a file")
        return prefix + value.hex()

    return convert_bytes


def _convert_uuid(value: Any) -> str:
    digits = value.replace("-", "").lower() if type(value) is str else ""
    if not _UUID.fullmatch(digits):
        raise RefusedValueError("no UUID", CORRECT)
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _convert_any(value: Any) -> str:
    """Return a value of a type that only the server knows."""
    return convert_text(str(value) if type(value) in (int, float) else value)


_CONVERTERS: dict[str, Convert] = {
    "bool": _convert_boolean,
    "date": convert_date,
    "float4": _convert_float,
    "float8": _convert_float,
    "interval": convert_interval,
    "json": convert_json,
    "jsonb": convert_jsonb,
    "text": convert_text,
    "time": convert_time,
    "uuid": _convert_uuid,
}
_PLAIN = {
    *("bool", "int2", "int4", "int8", "numeric", "float4", "float8", "uuid"),
    *("date", "time", "timestamp", "timestamptz", "interval"),
}
_WRITTEN_OTHERWISE = {"float4", "float8", "interval", "jsonb"}
_WRITTEN_ALIKE = {*_CONVERTERS, *_PLAIN, "bytea", "varchar", "bpchar"} - _WRITTEN_OTHERWISE
