"""What is dangerous in a migration beside traffic: a rule for each, and the safe way."""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from ..sql_text import LITERAL, NAME
from .statements import Statement

_ALONE = "in a revision of its own, in `with op.get_context().autocommit_block():`"
_NOT_VALID = (
    "add it with postgresql_not_valid=True, and "
    f'op.execute("ALTER TABLE … VALIDATE CONSTRAINT …") {_ALONE}'
)
_TWO_RELEASES = (
    "release code that does without it, and do this in a later release, with a comment in the "
    "revision that allows it"
)
# The rules of Squawk that are about danger; those of style are left out.
SQUAWK_RULES = {
    "require-concurrent-index-creation": "writes to the table wait until the index is built: "
    f"op.create_index(…, postgresql_concurrently=True) {_ALONE}",
    "require-concurrent-index-deletion": "reads and writes wait behind it: "
    f"op.drop_index(…, postgresql_concurrently=True) {_ALONE}",
    "require-concurrent-reindex": "reads and writes wait until the index is built: "
    f'op.execute("REINDEX … CONCURRENTLY …") {_ALONE}',
    "require-concurrent-partition-detach": "reads and writes wait behind it: "
    f'op.execute("ALTER TABLE … DETACH PARTITION … CONCURRENTLY") {_ALONE}',
    "ban-concurrent-index-creation-in-transaction": "CONCURRENTLY fails in a transaction: "
    f"{_ALONE}",
    "adding-field-with-default": "its value differs from row to row, so that all are rewritten "
    "while reads and writes wait: add the column without a default, set server_default by "
    f"op.alter_column, then fill the rows that are there {_ALONE}",
    "adding-required-field": "rows that are there have no value for it, and the running release "
    "gives none: add it with a server_default, or with nullable=True",
    "adding-not-nullable-field": "reads and writes wait until all rows are read: before it, "
    f'op.create_check_constraint(…, "… IS NOT NULL"), and {_NOT_VALID}; then it reads none',
    "adding-foreign-key-constraint": "writes to both tables wait until all rows are read: "
    f"{_NOT_VALID}",
    "constraint-missing-not-valid": "the table waits until all rows are read, also where NOT VALID "
    f"and VALIDATE CONSTRAINT share a transaction: {_NOT_VALID}",
    "disallowed-unique-constraint": "reads and writes wait until its index is built: "
    f"op.create_index(…, unique=True, postgresql_concurrently=True) {_ALONE}; that is enough, or "
    'then op.execute("ALTER TABLE … ADD CONSTRAINT … UNIQUE USING INDEX …")',
    "adding-serial-primary-key-field": "reads and writes wait until its index is built: "
    f"op.create_index(…, unique=True, postgresql_concurrently=True) {_ALONE}, then "
    'op.execute("ALTER TABLE … ADD CONSTRAINT … PRIMARY KEY USING INDEX …")',
    "changing-column-type": "all rows are rewritten while reads and writes wait, and the running "
    "release sends the old type: add a column of the new one, write both, fill it "
    f"{_ALONE}, and drop the old one in a later release",
    "renaming-table": "the running release still uses the old name: keep it (__tablename__), or "
    "leave a view of that name in the same revision and allow this",
    "renaming-column": "the running release still uses the old name: keep it "
    '(mapped_column("old_name")), or add a column, write both, and drop the old one later',
    "ban-drop-table": f"the running release may still use it: {_TWO_RELEASES}",
    "ban-drop-column": "the running release still names it in each SELECT of its model: "
    f"{_TWO_RELEASES}",
    "ban-set-schema": f"the running release still looks in the old schema: {_TWO_RELEASES}",
    "ban-drop-schema": f"the running release may still use it: {_TWO_RELEASES}",
    "ban-drop-database": "it is no migration's to drop a database",
    "ban-truncate-cascade": "it empties the tables that refer to this one too: name each table",
    "transaction-nesting": "Alembic has begun a transaction: leave BEGIN and COMMIT out, or use "
    "op.get_context().autocommit_block()",
}
OWN_RULES = {
    "enum-value-in-transaction": "PostgreSQL refuses a member of an enum in the transaction that "
    f'added it: op.execute("ALTER TYPE … ADD VALUE …") {_ALONE}',
    "data-in-schema-change": "the rows and the tables that this transaction alters stay locked "
    f"until its end: change the rows {_ALONE}, some thousand at a time",
    "lock-timeout-off": "whoever waits for a table's lock has all later statements on it wait: "
    "leave lock_timeout to migrate, which waits for a second and tries again",
    "irreversible-downgrade": "its downgrade does nothing, and the next upgrade meets what is "
    "there: undo it there, or allow this where a way back is not wanted",
}
ALL_RULES = SQUAWK_RULES | OWN_RULES

# Each says of a new constraint what `constraint-missing-not-valid` says, and more.
_SPECIFIC = {
    "adding-foreign-key-constraint",
    "adding-serial-primary-key-field",
    "disallowed-unique-constraint",
}
_CHANGES_ROWS = r"UPDATE|DELETE FROM|INSERT INTO .*\bSELECT\b|WITH .*\b(?:UPDATE|DELETE FROM)\b"
_CHANGES_TABLE = r"ALTER TABLE|DROP TABLE|CREATE (?:UNIQUE )?INDEX"
_NEEDS_NO_WAY_BACK = r"ALTER TABLE .* VALIDATE CONSTRAINT|ALTER TYPE .* ADD VALUE"
_TIMEOUT_OFF = r"SET (?:LOCAL |SESSION )?lock_timeout *(?:=|TO) *(?:'?0\w*'?;|DEFAULT)"
_INDEX = re.compile(
    rf"(?:CREATE|CREATE UNIQUE|DROP) INDEX (?:CONCURRENTLY )?(?:IF (?:NOT )?EXISTS )?({NAME})",
    re.IGNORECASE,
)
_ADDED_VALUE = re.compile(
    rf"ALTER TYPE (\S+) ADD VALUE (?:IF NOT EXISTS )?({LITERAL})", re.IGNORECASE
)
_TEXT = r"(?:VARCHAR\((\d+)\)|VARCHAR|TEXT)"
_TEXT_COLUMN = re.compile(rf"ALTER TABLE \S+ ALTER COLUMN (\S+) TYPE {_TEXT};", re.IGNORECASE)

Tables = Set[str | None]
Danger = tuple[Statement, str]


def drop_harmless(
    found: Iterable[Danger], statements: Sequence[Statement], created: Tables
) -> Iterator[Danger]:
    """Leave out matters of style, tables that new revisions `created`, and what is said twice."""
    dangers = dict.fromkeys(one for one in found if one[1] in SQUAWK_RULES)
    said = {one for one, rule in dangers if rule in _SPECIFIC}
    gone = {one.table for one, rule in dangers if rule == "ban-drop-table"}
    indexed = {name: one.table for one in statements if (name := _find_index(one)) and one.table}
    for one, rule in dangers:
        table = one.table or indexed.get(_find_index(one) or "")
        if rule == "ban-concurrent-index-creation-in-transaction" or not (
            table in created
            or (rule == "require-concurrent-index-deletion" and table in gone)
            or (rule == "constraint-missing-not-valid" and one in said)
            or (rule == "changing-column-type" and _widens_text(one, statements))
        ):
            yield one, rule


def _find_index(statement: Statement) -> str | None:
    found = _INDEX.match(statement.sql)
    return found[1] if found else None


def _widens_text(statement: Statement, statements: Sequence[Statement]) -> bool:
    """Return whether a text only gets more room, which rewrites no row."""
    found = _TEXT_COLUMN.fullmatch(statement.sql)
    if not found:
        return False
    before = statements[: statements.index(statement)]
    sql = "\n".join(one.sql for one in before if one.table == statement.table)
    sizes = re.findall(rf"[\s(]{re.escape(found[1])} (?:TYPE )?{_TEXT}", sql, re.IGNORECASE)
    if not sizes or not found[2]:
        return bool(sizes)
    return 0 < int(sizes[-1] or 0) <= int(found[2])


def find_own_dangers(statements: Sequence[Statement], created: Tables) -> Iterator[Danger]:
    """Yield the dangers that Squawk, the linter of PostgreSQL's migrations, has no rule for.

    `created` are the tables that the revisions make themselves: nobody waits for one.
    """
    changed = (
        one for one in statements if one.matches(_CHANGES_TABLE) and one.table not in created
    )
    altering = {one.transaction for one in changed} - {None}
    for one in statements:
        if one.transaction in altering and one.matches(_CHANGES_ROWS) and one.table not in created:
            yield one, "data-in-schema-change"
        if one.matches(_TIMEOUT_OFF):
            yield one, "lock-timeout-off"
    yield from _find_early_enum_values(statements)
    yield from _find_irreversible(statements)


def _find_early_enum_values(statements: Sequence[Statement]) -> Iterator[Danger]:
    """Yield each use of an enum's new value in the transaction that adds it."""
    for number, one in enumerate(statements):
        if one.transaction is None or not (found := _ADDED_VALUE.match(one.sql)):
            continue
        together = [other for other in statements if other.transaction == one.transaction]
        if not any(other.matches(rf"CREATE TYPE {re.escape(found[1])} ") for other in together):
            later = (other for other in together if other in statements[number + 1 :])
            yield from ((o, "enum-value-in-transaction") for o in later if found[2] in o.sql)


def _find_irreversible(statements: Sequence[Statement]) -> Iterator[Danger]:
    """Yield each revision that changes the schema and whose `downgrade` calls nothing."""
    changing = (one for one in statements if one.matches("CREATE|ALTER|DROP"))
    lasting = (one.revision for one in changing if not one.matches(_NEEDS_NO_WAY_BACK))
    for revision in dict.fromkeys(lasting):
        for node in ast.parse(Path(revision.path).read_bytes()).body:
            is_downgrade = isinstance(node, ast.FunctionDef) and node.name == "downgrade"
            if is_downgrade and not any(isinstance(part, ast.Call) for part in ast.walk(node)):
                yield Statement("", revision, node.lineno, None), "irreversible-downgrade"
