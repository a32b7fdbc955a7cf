"""The models as tables that are made to be read, beside those that the migrations made."""

from collections.abc import Iterable

from sqlalchemy import Connection, DefaultClause, MetaData, create_engine, make_url, text
from sqlalchemy.schema import CreateSchema

from ...dialects import with_chassis_types
from .catalogue import CatalogueEntry, read_catalogue
from .defaults import unify_default
from .enums import find_enums

_SCHEMA = "chassis_twin"


def read_twin(connection: Connection, metadata: Iterable[MetaData]) -> list[CatalogueEntry]:
    """Return what a database would have if the models made it.

    What only migrations make is there for them: extensions, functions, schemas.
    Raise sqlalchemy.exc.SQLAlchemyError if the models can't be made.
    """
    copies = [_copy_portably(one) for one in metadata]
    if connection.dialect.name == "sqlite":
        return _read_in_memory(copies)
    return _read_in_schemas(connection, copies)


def _copy_portably(metadata: MetaData) -> MetaData:
    """Copy tables with the defaults that a revision would have.

    A model may have what one engine refuses, such as `text("0")` for a boolean.
    """
    copy = MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        for column in table.to_metadata(copy).columns:
            if isinstance(column.server_default, DefaultClause):
                column.server_default = unify_default(column.server_default, column.type)
    return copy


def _read_in_memory(metadata: Iterable[MetaData]) -> list[CatalogueEntry]:
    engine = create_engine(with_chassis_types(make_url("sqlite://")))
    try:
        with engine.connect() as connection:
            for one in metadata:
                one.create_all(connection)
            return read_catalogue(connection)
    finally:
        engine.dispose()


def _read_in_schemas(connection: Connection, metadata: Iterable[MetaData]) -> list[CatalogueEntry]:
    """Make the models in schemas of their own, read them there, and roll that back."""
    schemas = {name: f"{_SCHEMA}_{name}" for name in sorted(_find_schemas(metadata))}
    with connection.begin_nested() as savepoint:
        try:
            for name in (_SCHEMA, *schemas.values()):
                connection.execute(CreateSchema(name))
            path = connection.scalar(text("SHOW search_path"))
            connection.execute(text(f"SET LOCAL search_path TO {_SCHEMA}, {path}"))
            connection.execution_options(schema_translate_map=schemas)
            for one in metadata:
                one.create_all(connection, checkfirst=False)
            return [
                _move_home(one)
                for one in read_catalogue(connection)
                if (one.schema or "").startswith(_SCHEMA)
            ]
        finally:
            connection.execution_options(schema_translate_map={})
            savepoint.rollback()


def _find_schemas(metadata: Iterable[MetaData]) -> set[str]:
    tables = [table for one in metadata for table in one.tables.values()]
    columns = [column for table in tables for column in table.columns]
    enums = [enum for column in columns for enum in find_enums(column.type)]
    found = {table.schema for table in tables} | {enum.schema for enum in enums}
    return {name for name in found if name}


def _move_home(entry: CatalogueEntry) -> CatalogueEntry:
    """Return an entry of the twin with the schema that the models have for it."""
    schema = (entry.schema or "").removeprefix(_SCHEMA).removeprefix("_") or None
    facts = {
        fact: value.replace(f"{_SCHEMA}_", "").replace(f"{_SCHEMA}.", "")
        for fact, value in entry.facts.items()
    }
    return CatalogueEntry(schema, entry.table, entry.kind, entry.name, facts)
