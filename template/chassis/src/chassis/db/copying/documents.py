"""Texts, and JSON documents as both databases hold them; a list may stand for an array."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..column_types import has_nul
from .errors import CORRECT, RefusedValueError, check_classes

# What the elements of an array may be; those of other types are for the server to know.
_ELEMENTS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("_int2", "_int4", "_int8"), (int,)),
    **dict.fromkeys(("_float4", "_float8", "_numeric"), (int, float)),
    **dict.fromkeys(("_text", "_varchar"), (str,)),
    "_bool": (bool,),
}


def convert_texts(values: Sequence[Any]) -> Sequence[str]:
    check_classes(values, "text", str)
    if "\0" in "".join(values):
        raise RefusedValueError(
            "a text with a NUL",
            "take it out: UPDATE {table} SET {column} = "
            "replace({column}, char(0), '') WHERE instr({column}, char(0))",
        )
    return values


def convert_json(values: Sequence[Any]) -> Sequence[str]:
    _load_documents(values)
    return [*map(str, values)]


def convert_jsonb(values: Sequence[Any]) -> Sequence[str]:
    texts = convert_json(values)
    for text in texts:
        if has_nul(text):
            raise RefusedValueError("a NUL in a text of a JSON document", f"{CORRECT}: take it out")
    return texts


def create_array_converter(kind: str) -> Callable[[Sequence[Any]], Sequence[str]]:
    """Return what converts a JSON list, which stands for an array in SQLite."""
    elements = _ELEMENTS.get(kind, (int, float, str, bool))

    def convert_arrays(values: Sequence[Any]) -> Sequence[str]:
        found = _load_documents(values)
        if {*map(type, found)} - {list}:
            raise RefusedValueError("no list in a column of arrays", CORRECT)
        return convert_texts([*map(write_array, found)])

    def write_array(values: list[Any]) -> str:
        return "{" + ",".join(map(write_element, values)) + "}"

    def write_element(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list) and value:
            return write_array(value)
        if type(value) not in elements:
            raise RefusedValueError("a list of other values than the array has", CORRECT)
        if isinstance(value, str):
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return str(value)

    return convert_arrays


def _load_documents(values: Sequence[Any]) -> list[Any]:
    # SQLite makes a number of the document 5.
    check_classes((one for one in values if not _is_finite(one)), "JSON", str)
    convert_texts([one for one in values if type(one) is str])
    try:
        return [_load_text(one) if type(one) is str else one for one in values]
    except (ValueError, RecursionError):
        raise RefusedValueError("no JSON that PostgreSQL reads", CORRECT) from None


def _is_finite(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value - value == 0)


def _load_text(text: str) -> Any:
    found = _decode(text)
    if "\\ud" in text or "\\uD" in text:
        # Half of a surrogate pair can't be encoded.
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
