"""The tables that the models would make, in a copy of a database that the migrations made."""

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, DefaultClause, MetaData, Table, text
from sqlalchemy.schema import SchemaConst

from .defaults import unify_default


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
        portable = copy_portably(one)
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


def copy_portably(metadata: MetaData, *, prefix: str | None = None) -> MetaData:
    """Copy tables with the defaults that a revision would have, named schemas under a prefix.

    A model may have what one engine refuses, such as `text("0")` for a boolean.
    """
    copy = MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        twin = table.to_metadata(
            copy,
            schema=_add_prefix(prefix, table.schema) or SchemaConst.RETAIN_SCHEMA,
            referred_schema_fn=lambda table, _, key, schema: _add_prefix(prefix, schema),
        )
        for column in twin.columns:
            if isinstance(column.server_default, DefaultClause):
                column.server_default = unify_default(column.server_default, column.type)
    return copy


def _add_prefix(prefix: str | None, schema: str | None) -> str | None:
    return f"{prefix}_{schema}" if prefix and schema else schema
