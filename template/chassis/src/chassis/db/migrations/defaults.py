"""Server defaults: the text that means the same on SQLite and on PostgreSQL."""

import re
from typing import Any

from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import DefaultClause
from sqlalchemy.sql.elements import ClauseElement

from ..sqlite_compilers import NOW

_POSTGRES = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
_CAST = re.compile(r"""('(?:[^']|'')*'|[\w.+-]+)::[\w\s".()\[\]]+""")
_NOW = re.compile(
    rf"(now|current_timestamp|transaction_timestamp)(\(\))?|{re.escape(NOW)}", re.IGNORECASE
)
# What SQLite takes without parentheses: a literal, or a keyword.
_BARE = re.compile(
    r"""[+-]?[\w.]+ | '(?:[^']|'')*' | (null|current_(timestamp|date|time))""",
    re.IGNORECASE | re.VERBOSE,
)
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def render_default(default: DefaultClause | str, *, is_boolean: bool) -> str:
    """Return the Python text of a column's `server_default`."""
    value: Any = default.arg if isinstance(default, DefaultClause) else default
    text = value if isinstance(value, str) else normalise_default(value)
    if is_boolean and (boolean := _BOOLEANS.get(text.strip("'").lower())) is not None:
        return f"sa.{str(boolean).lower()}()"
    return repr(text) if isinstance(value, str) else f"sa.text({text!r})"


def normalise_default(value: ClauseElement) -> str:
    """Return the SQL of a default that is an expression, as both engines take it."""
    text = str(value.compile(dialect=_POSTGRES, compile_kwargs={"literal_binds": True}))
    text = _without_parentheses(text.strip())
    if cast := _CAST.fullmatch(text):
        text = cast[1]
    if _NOW.fullmatch(text):
        return "CURRENT_TIMESTAMP"
    return text if _BARE.fullmatch(text) else f"({text})"


def _without_parentheses(text: str) -> str:
    while text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _closing(text: str) -> int:
    """Return where the first parenthesis is closed, without looking into quoted text."""
    depth, quoted = 0, False
    for index, character in enumerate(text):
        if character == "'":
            quoted = not quoted
        elif not quoted:
            depth += (character == "(") - (character == ")")
            if depth == 0:
                return index
    return -1
