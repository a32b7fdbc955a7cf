"""The tables that the models would make, in a copy of a database that the migrations made."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DefaultClause,
    MetaData,
    Table,
    TextClause,
    false,
    text,
    true,
)

from .defaults import render_default

_PORTABLE: dict[str, ColumnElement[Any] | TextClause] = {
    "sa.true()": true(),
    "sa.false()": false(),
    "sa.text('CURRENT_TIMESTAMP')": text("CURRENT_TIMESTAMP"),
}


def create_models(
    connection: Connection, metadata: Sequence[MetaData], tables: Sequence[Table]
) -> None:
    """Drop the models' tables and types, and create them anew as the models have them.

    What only migrations make stays there: extensions, functions, schemas, other tables.
    """
    for statement in _drop_statements(connection, tables):
        connection.execute(text(statement))
    wanted = {table.key for table in tables}
    for one in metadata:
        portable = _with_portable_defaults(one)
        ours = [table for key, table in portable.tables.items() if key in wanted]
        portable.create_all(connection, tables=ours)


def _drop_statements(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    if connection.dialect.name != "postgresql":
        return
    ours = {(table.schema, table.name) for table in tables}
    default = connection.dialect.default_schema_name
    for schema, name, statement in connection.execute(text(_DROP_TABLES)).all():
        if (None if schema == default else schema, name) in ours or (schema, name) in ours:
            yield statement
    # A type that is there would be taken as it is, with the members that the migrations gave it.
    yield from connection.scalars(text(_DROP_TYPES)).all()


_DROP_TABLES = """
    SELECT n.nspname, c.relname, format('DROP TABLE IF EXISTS %I.%I CASCADE', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
"""
_DROP_TYPES = """
    SELECT format('DROP %s %s CASCADE', CASE typtype WHEN 'e' THEN 'TYPE' ELSE 'DOMAIN' END,
        t.oid::regtype)
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE typtype IN ('e', 'd') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = t.oid AND deptype = 'e')
"""


def _with_portable_defaults(metadata: MetaData) -> MetaData:
    """Return the tables with the defaults that a revision would have; a copy if one differs.

    A model may have what one engine refuses, such as `text("0")` for a boolean.
    """
    columns = [column for table in metadata.tables.values() for column in table.columns]
    if not any(_replace_default(column) for column in columns):
        return metadata
    copy = MetaData(naming_convention=metadata.naming_convention, schema=metadata.schema)
    for table in metadata.tables.values():
        for column in table.to_metadata(copy).columns:
            column.server_default = _replace_default(column) or column.server_default
    return copy


def _replace_default(column: Column[Any]) -> DefaultClause | None:
    """Return the default that is right on both engines; None if the column's own is."""
    default = column.server_default
    if not isinstance(default, DefaultClause) or not isinstance(default.arg, str | TextClause):
        return None
    rendered = render_default(default, is_boolean=isinstance(column.type, Boolean))
    portable = _PORTABLE.get(rendered)
    if portable is None or (isinstance(default.arg, TextClause) and default.arg.compare(portable)):
        return None
    return DefaultClause(portable)
