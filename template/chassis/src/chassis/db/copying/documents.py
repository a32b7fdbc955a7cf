"""Texts, and JSON documents as both databases hold them; a list may stand for an array."""

import json
import re
from decimal import Context, Decimal
from typing import Any

from .errors import CORRECT, RefusedValueError, refuse_class

_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_JSON_DECIMALS = Context(prec=20_000)
_UNESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def convert_text(value: Any) -> str:
    if type(value) is not str:
        raise refuse_class(value, "text")
    if "\0" in value:
        raise RefusedValueError(
            "a text with a NUL",
            "take it out: UPDATE {table} SET {column} = "
            "replace({column}, char(0), '') WHERE instr({column}, char(0))",
        )
    return value


def convert_json(value: Any) -> str:
    _load_json(value)
    return str(value)


def convert_jsonb(value: Any) -> str:
    text = convert_json(value)
    if "\\u0000" in text and _NUL_IN_JSON.search(text):
        raise RefusedValueError("a NUL in a text of a JSON document", f"{CORRECT}: take it out")
    return text


def convert_array(value: Any) -> str:
    """Return a JSON list, which stands for an array in SQLite, as one of PostgreSQL's."""
    found = _load_json(value)
    if not isinstance(found, list):
        raise RefusedValueError("no list in a column of arrays", CORRECT)
    return _write_array(found)


def _write_array(values: list[Any]) -> str:
    return "{" + ",".join(map(_write_element, values)) + "}"


def _write_element(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case list():
            return _write_array(value)
        case bool():
            return str(value).lower()
        case str():
            return '"' + re.sub(r'(["\\])', r"\\\1", convert_text(value)) + '"'
        case _:
            return _write_element(json.dumps(value))


def _load_json(value: Any) -> Any:
    # SQLite makes a number of the document 5.
    if type(value) is int or (type(value) is float and value - value == 0):
        return value
    if type(value) is not str:
        raise refuse_class(value, "JSON")
    convert_text(value)
    try:
        found = json.loads(value, parse_constant=_refuse_constant)
        if "\\u" in value:
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RefusedValueError("no JSON that PostgreSQL reads", CORRECT) from None
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def canonicalise_json(field: bytes) -> bytes:
    """Return the same text for all that jsonb holds alike: numbers by value, sorted keys."""
    found = json.loads(unescape(field), parse_int=_mark_number, parse_float=_mark_number)
    return json.dumps(found, sort_keys=True).encode()


def _mark_number(text: str) -> dict[str, str]:
    # No document of jsonb has a NUL in a key.
    number = Decimal(text).normalize(_JSON_DECIMALS)
    return {"\0": str(number if number else abs(number))}


def unescape(field: bytes) -> bytes:
    """Return the text of a field of COPY."""
    return _ESCAPED.sub(lambda found: _UNESCAPES.get(found[1], found[1]), field)
