"""Server defaults: the text that means the same on SQLite and on PostgreSQL."""

import re
from typing import Any

from sqlalchemy import Boolean, DefaultClause, false, text, true
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import TypeEngine

from ...sqlite.compilers import NOW
from ..sql_text import strip_parentheses

_POSTGRES = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
_CAST_LITERAL = re.compile(r"""('(?:[^']|'')*'|[\w.+-]+)::[\w\s".()\[\]]+""")
_NOW = re.compile(
    rf"(now|current_timestamp|transaction_timestamp)(\(\))?|{re.escape(NOW)}", re.IGNORECASE
)
# What SQLite takes without parentheses: a literal, or a keyword.
_BARE_DEFAULT = re.compile(
    r"""[+-]?[\w.]+ | '(?:[^']|'')*' | (null|current_(timestamp|date|time))""",
    re.IGNORECASE | re.VERBOSE,
)
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def render_default(default: DefaultClause | str, *, is_boolean: bool) -> str:
    """Return the Python text of a column's `server_default`."""
    value, sql, boolean = _read_default(default)
    if is_boolean and boolean is not None:
        return f"sa.{str(boolean).lower()}()"
    return repr(sql) if isinstance(value, str) else f"sa.text({sql!r})"


def unify_default(default: DefaultClause, kind: TypeEngine[Any]) -> DefaultClause:
    """Return a default as `render_default` writes it."""
    value, sql, boolean = _read_default(default)
    if isinstance(kind, Boolean) and boolean is not None:
        return DefaultClause(true() if boolean else false())
    return DefaultClause(value if isinstance(value, str) else text(sql))


def _read_default(default: DefaultClause | str) -> tuple[Any, str, bool | None]:
    """Return a default's value, its SQL for both engines, and the boolean that it may be."""
    value: Any = default.arg if isinstance(default, DefaultClause) else default
    sql = value if isinstance(value, str) else normalise_default(value)
    return value, sql, _BOOLEANS.get(sql.strip("'").lower())


def normalise_default(value: ClauseElement) -> str:
    """Return the SQL of a default that is an expression, as both engines take it."""
    sql = str(value.compile(dialect=_POSTGRES, compile_kwargs={"literal_binds": True}))
    sql = strip_parentheses(sql.strip())
    if cast := _CAST_LITERAL.fullmatch(sql):
        sql = cast[1]
    if _NOW.fullmatch(sql):
        return "CURRENT_TIMESTAMP"
    return sql if _BARE_DEFAULT.fullmatch(sql) else f"({sql})"
