"""What is sent to the database: whether each table of tenants in it is kept to one of them."""

import re
from collections.abc import Iterator
from functools import lru_cache

from .models import TABLES
from .scope import TenantError

_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\w+|[^\w\s]""")
_BEFORE_TABLE = {"FROM", "JOIN", "UPDATE", "USING", "INTO"}
_CLAUSES = _BEFORE_TABLE | {
    *("SELECT", "WHERE", "ON", "SET", "GROUP", "ORDER", "HAVING", "LIMIT", "OFFSET", "FETCH"),
    *("RETURNING", "VALUES", "UNION", "EXCEPT", "INTERSECT", "WITH", "FOR", "OF", "WINDOW"),
    *("LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL"),
}
_NAME_FOLLOWS = {*_BEFORE_TABLE, ",", ".", "ONLY"}
_PARAMETER = r"\s*=\s*[?:$%]"
_UPSERT = re.compile(r"\bON CONFLICT\b(.*?)\bDO UPDATE\b", re.IGNORECASE | re.DOTALL)
_LONG = 10_000


def check_sql(sql: str) -> None:
    """Raise TenantError for a table of tenants that no condition keeps to a tenant."""
    find = _find_problem if len(sql) < _LONG else _find_problem.__wrapped__
    problem = find(sql, len(TABLES))
    if problem is not None:
        raise TenantError(
            f"{problem}: use the model, as in select(Order) and update(Order).where(…), or compare "
            "the tenant, table.c.tenant == current_tenant(), or do it in `with all_tenants():`"
        )


@lru_cache(maxsize=1000)
def _find_problem(sql: str, tables: int) -> str | None:
    """Return what is wrong with a statement, or None; it is so until there are more tables."""
    found = [each for each in _find_tables(sql) if each[1] in TABLES]
    upsert = _UPSERT.search(sql)
    names = [name for clause, _, name in found if clause != "INTO"]
    for clause, table, name in found:
        conditions = _count_conditions(sql, name, is_only_table=len(found) == 1)
        if clause != "INTO" and conditions < names.count(name):
            return f"nothing keeps the table {table} to a tenant"
        if clause == "INTO" and upsert is not None and "tenant" not in upsert[1]:
            return f"an upsert of {table} may change the row of another tenant"
    return None


def _count_conditions(sql: str, name: str, *, is_only_table: bool) -> int:
    """Count the conditions that compare a table's tenant with a parameter."""
    own = rf'(?:"{re.escape(name)}"|\b{re.escape(name)})\."?tenant"?{_PARAMETER}'
    count = len(re.findall(own, sql, re.IGNORECASE))
    if is_only_table:
        count += len(re.findall(rf'(?<![\w."])tenant{_PARAMETER}', sql[sql.find("WHERE") :]))
    return count


def _find_tables(sql: str) -> Iterator[tuple[str, str, str]]:
    """Yield each table of a statement: the word before it, its name, what it is called there."""
    tokens = [*_TOKEN.findall(sql), "", "", ""]
    clauses = [""]
    before = ""
    for token, *after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        word = token.upper()
        if token == "(":
            clauses.append("")
        elif token == ")" and len(clauses) > 1:
            clauses.pop()
        elif word in _CLAUSES:
            clauses[-1] = word
        # A name before a point is a schema's.
        elif clauses[-1] in _BEFORE_TABLE and before in _NAME_FOLLOWS and after[0] != ".":
            called = after[1] if after[0].upper() == "AS" else after[0]
            is_alias = re.match(r'["\w]', called) and called.upper() not in _CLAUSES
            called = called if is_alias else token
            yield clauses[-1], token.strip('"').lower(), called.strip('"')
        before = word
