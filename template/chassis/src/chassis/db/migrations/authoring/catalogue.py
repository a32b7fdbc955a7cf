"""What a database has: tables, columns, constraints and indexes as the engine records them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from ..sql_text import strip_casts, strip_parentheses
from .sqlite_catalogue import read_index, read_table

Place = tuple[str | None, str]

KINDS = {
    "p": "primary key",
    "u": "unique constraint",
    "f": "foreign key",
    "c": "check",
    "x": "exclusion constraint",
}


@dataclass(frozen=True)
class CatalogueEntry:
    """A table, or something that belongs to one, with what the engine records of it.

    `statement` makes an index again; where that is possible, it does so on either engine.
    """

    schema: str | None
    table: str
    kind: str
    name: str | None
    facts: dict[str, str]
    statement: str = field(default="", compare=False)

    @property
    def place(self) -> Place:
        """The schema and the table's name in lower case."""
        return self.schema, self.table.lower()

    @property
    def key(self) -> tuple[object, ...]:
        """What identifies the entry in two databases; a table has one primary key at most."""
        name = "" if self.kind == "primary key" else self.name
        unnamed = self.facts.get("definition") if name is None else None
        return self.place, self.kind, name, unnamed

    def is_renamed(self, other: "CatalogueEntry") -> bool:
        """Return whether both are the same constraint by different names."""
        mine = (self.place, self.kind, self.facts)
        return self.kind in KINDS.values() and mine == (other.place, other.kind, other.facts)


def read_catalogue(connection: Connection) -> list[CatalogueEntry]:
    """Read every table of a database but the engine's own; the default schema is None."""
    if connection.dialect.name == "sqlite":
        return list(_read_sqlite(connection))
    return list(_read_postgres(connection))


def _read_sqlite(connection: Connection) -> Iterator[CatalogueEntry]:
    rows = connection.exec_driver_sql(
        "SELECT type, tbl_name, name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND type IN ('table', 'index') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).all()
    for kind, table, name, sql in rows:
        if kind == "index":
            facts = {"definition": read_index(sql)}
            yield CatalogueEntry(None, table, "index", name, facts, sql)
        else:
            yield from (CatalogueEntry(None, table, *part) for part in read_table(sql))


def _read_postgres(connection: Connection) -> Iterator[CatalogueEntry]:
    default = connection.dialect.default_schema_name
    homes = {default: None}
    for schema, table in connection.execute(text(_TABLES)):
        yield CatalogueEntry(homes.get(schema, schema), table, "table", None, {})
    for row in connection.execute(text(_COLUMNS)).mappings():
        schema, table, name = row["schema"], row["table"], row["name"]
        facts = {fact: value for fact, value in row.items() if fact not in _IDENTITY and value}
        if "default" in facts:
            facts["default"] = _unify_default(facts["default"])
        yield CatalogueEntry(homes.get(schema, schema), table, "column", name, facts)
    for schema, table, kind, name, definition in connection.execute(text(_CONSTRAINTS)):
        facts = {"definition": definition}
        yield CatalogueEntry(homes.get(schema, schema), table, KINDS[kind], name, facts)
    for schema, table, name, sql in connection.execute(text(_INDEXES)):
        facts = {"definition": re.sub(r" INDEX .*? ON .*? USING ", " INDEX USING ", sql, count=1)}
        statement = _make_index_portable(sql.removesuffix(" INVALID"), schema == default)
        yield CatalogueEntry(homes.get(schema, schema), table, "index", name, facts, statement)
    for schema, name in connection.execute(text(_SEQUENCES)):
        yield CatalogueEntry(homes.get(schema, schema), name, "sequence", None, {})


def _make_index_portable(statement: str, is_default: bool) -> str:
    """Return a CREATE INDEX without what PostgreSQL adds to what was written."""
    if is_default:
        statement = re.sub(r" ON (ONLY )?(?:\w+|\"[^\"]+\")\.", r" ON \1", statement, count=1)
    statement = strip_casts(statement.replace(" USING btree", "", 1))
    head, word, condition = statement.partition(" WHERE ")
    return f"{head}{word}{strip_parentheses(condition)}"


def _unify_default(expression: str) -> str:
    """Return the same text for the spellings that PostgreSQL has of one default."""
    number = re.sub(r"^'(-?\d+(?:\.\d+)?)'::[a-z ]+$", r"\1", expression)
    return number.replace("CURRENT_TIMESTAMP", "now()")


_IDENTITY = ("schema", "table", "name")
_FROM_TABLES = """
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_t'
        AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
_TABLES = f"SELECT n.nspname, c.relname {_FROM_TABLES}"
_COLUMNS = f"""
    SELECT n.nspname AS schema, c.relname AS table, a.attname AS name,
        format_type(a.atttypid, a.atttypmod) AS type,
        CASE WHEN a.attnotnull THEN 'not null' ELSE 'nullable' END AS nullability,
        CASE WHEN q.seqrelid IS NOT NULL AND a.attidentity = '' THEN 'serial'
            WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default,
        CASE a.attgenerated WHEN 's' THEN pg_get_expr(d.adbin, d.adrelid) || ' stored'
            WHEN 'v' THEN pg_get_expr(d.adbin, d.adrelid) || ' virtual' END AS computed,
        CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END
            || format(' start %s increment %s', q.seqstart, q.seqincrement) AS identity,
        (SELECT collname FROM pg_collation WHERE oid = a.attcollation AND collname <> 'default')
            AS collation,
        col_description(c.oid, a.attnum) AS comment,
        (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumlabel) FROM pg_enum
            WHERE enumtypid IN (t.oid, t.typelem)) AS members,
        (SELECT string_agg(pg_get_constraintdef(oid), ', ' ORDER BY conname) FROM pg_constraint
            WHERE contypid = t.oid) AS domain
    {_FROM_TABLES}
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN pg_sequence q ON q.seqrelid = to_regclass(pg_get_serial_sequence(
        format('%I.%I', n.nspname, c.relname), a.attname))
"""
_CONSTRAINTS = f"""
    SELECT n.nspname, c.relname, k.contype, k.conname, pg_get_constraintdef(k.oid) {_FROM_TABLES}
    JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f', 'c', 'x')
"""
_INDEXES = f"""
    SELECT n.nspname, c.relname, i.relname, pg_get_indexdef(i.oid)
        || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
    {_FROM_TABLES}
    JOIN pg_index x ON x.indrelid = c.oid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.oid AND contype <> 'f')
"""
_SEQUENCES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_depend WHERE objid = c.oid AND deptype IN ('a', 'i', 'e'))
"""
