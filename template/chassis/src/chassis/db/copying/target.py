"""The PostgreSQL database that is copied to: what its tables are like, as the server records it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from .source import quote_name

# A table, a column of it, and the sequence that its numbers are from, quoted.
SequenceOwner = tuple[str, str, str]

# Of the schema that a service uses, without the tables of extensions.
OUR_TABLES = """
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
                AND deptype = 'e')
"""
_MISSING_RIGHTS = """
    SELECT 'name one that exists in search_path' WHERE current_schema() IS NULL
    UNION ALL
    SELECT format('GRANT CREATE ON SCHEMA %I TO %I', current_schema(), current_user)
    WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
    UNION ALL
    SELECT format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), current_user)
    WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
"""
_MATERIALIZED_VIEWS = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'm' AND relispopulated
    ORDER BY oid
"""
_COLUMNS = f"""
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), b.typname,
        CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, t.typtype = 'd',
        a.attnotnull, a.attgenerated <> '', a.atthasdef OR a.attidentity <> '',
        ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = b.oid)
    {OUR_TABLES}
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    ORDER BY c.relname, a.attnum
"""
_SEQUENCES = f"""
    SELECT c.relname, a.attname, s.oid::regclass::text
    {OUR_TABLES}
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef e ON e.adrelid = c.oid AND e.adnum = a.attnum
    JOIN pg_depend d ON (d.classid, d.objid, d.refclassid) = (
            'pg_attrdef'::regclass, e.oid, 'pg_class'::regclass)
        OR (d.classid, d.refclassid, d.refobjid, d.refobjsubid, d.deptype) = (
            'pg_class'::regclass, 'pg_class'::regclass, c.oid, a.attnum, 'i')
    JOIN pg_class s ON s.relkind = 'S'
        AND s.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END
"""


@dataclass(frozen=True)
class TargetColumn:
    """A column. `kind` is its type, that of a domain's values if it is a domain.

    `modifier` is what the catalogue keeps of a length, a precision and a scale; -1 for none.
    """

    name: str
    type: str
    kind: str
    modifier: int
    is_domain: bool
    is_not_null: bool
    is_generated: bool
    has_default: bool
    members: Sequence[str]

    @property
    def is_enum(self) -> bool:
        """Return whether the type is an enum."""
        return bool(self.members)

    @property
    def precision(self) -> int:
        """Return the digits of a numeric, which has them in the upper half of its modifier."""
        return (self.modifier - 4) >> 16 & 0xFFFF

    @property
    def scale(self) -> int:
        """Return the decimals of a numeric, from -1000 to 1000: 11 bits, with a sign."""
        return ((self.modifier - 4) & 0x7FF ^ 1024) - 1024


class Target:
    """The database, by the one connection that everything but migrations uses."""

    def __init__(self, driver: "psycopg.Connection[tuple[Any, ...]]") -> None:
        self.driver = driver
        driver.autocommit = True
        for setting in _SETTINGS:
            self.execute(f"SET {setting}")

    def execute(self, statement: str, *values: object) -> None:
        """Run a statement that has no result."""
        self.driver.execute(statement.encode(), values or None)

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.driver.execute(query.encode(), values or None).fetchall()

    def find_missing_right(self) -> str | None:
        """Return the statement that gives the role a right which a copy needs, if it lacks one."""
        return next((grant for (grant,) in self.read(_MISSING_RIGHTS)), None)

    def read_columns(self) -> dict[str, list[TargetColumn]]:
        """Return the columns of each table."""
        tables: dict[str, list[TargetColumn]] = {}
        for table, *facts in self.read(_COLUMNS):
            tables.setdefault(table, []).append(TargetColumn(*facts))
        return tables

    def read_sequences(self) -> list[SequenceOwner]:
        """Return table, column and sequence of each column that counts by itself."""
        return self.read(_SEQUENCES)

    def read_materialized_views(self) -> list[str]:
        """Return the materialized views that have been filled."""
        return [name for (name,) in self.read(_MATERIALIZED_VIEWS)]

    def has_rows(self, table: str) -> bool:
        """Return whether a table has a row."""
        return bool(self.read(f"SELECT EXISTS (SELECT FROM {quote_name(table)})")[0][0])

    def normalise(self, type_: str, texts: Sequence[str]) -> list[str]:
        """Return how the server writes values of a type. Raise psycopg.Error if it refuses one."""
        safe_type = type_.replace("%", "%%")
        query = (
            f"SELECT CAST(CAST(given AS {safe_type}) AS text) FROM unnest(%s::text[]) "
            "WITH ORDINALITY AS each(given, place) ORDER BY place"
        )
        return [text for (text,) in self.read(query, list(texts))]


_SETTINGS = (
    "timezone = 'UTC'",
    "datestyle = 'ISO, YMD'",
    "intervalstyle = 'postgres'",
    "bytea_output = 'hex'",
    "extra_float_digits = 1",
    "statement_timeout = 0",
    # References and duplicates are found by hashes and sorts.
    "work_mem = '64MB'",
    "idle_in_transaction_session_timeout = 0",
)
