"""The models as tables that are made to be read, beside those that the migrations made."""

import re
from collections.abc import Iterable

from sqlalchemy import Connection, MetaData, create_engine, make_url, text
from sqlalchemy.schema import CreateSchema

from ..dialects import with_chassis_types
from .catalogue import Thing, read_catalogue
from .model_tables import copy_portably

Place = tuple[str | None, str]
# By the kind of thing and its name in lower case.
Facts = dict[tuple[str, str], dict[str, str]]

_SCHEMA = "chassis_twin"


def read_twins(
    connection: Connection, metadata: Iterable[MetaData]
) -> tuple[dict[Place, Facts], dict[Place, Facts]]:
    """Return what a database has, and what it would have if the models made it.

    Raises sqlalchemy.exc.SQLAlchemyError if it can't make the models.
    """
    made = read_catalogue(connection)
    if connection.dialect.name == "sqlite":
        wanted = _make_in_memory(metadata)
    else:
        wanted = _make_in_schemas(connection, metadata)
    return _group(made), _group(wanted)


def _make_in_memory(metadata: Iterable[MetaData]) -> list[Thing]:
    engine = create_engine(with_chassis_types(make_url("sqlite://")))
    try:
        with engine.connect() as connection:
            for one in metadata:
                copy_portably(one).create_all(connection)
            return read_catalogue(connection)
    finally:
        engine.dispose()


def _make_in_schemas(connection: Connection, metadata: Iterable[MetaData]) -> list[Thing]:
    """Make the models in schemas of their own, read them there, and roll that back."""
    copies = [copy_portably(one, prefix=_SCHEMA) for one in metadata]
    names = {table.schema for one in copies for table in one.tables.values()} - {None}
    with connection.begin_nested() as savepoint:
        try:
            for name in (_SCHEMA, *sorted(filter(None, names))):
                connection.execute(CreateSchema(name))
            path = connection.scalar(text("SHOW search_path"))
            connection.execute(text(f"SET LOCAL search_path TO {_SCHEMA}, {path}"))
            for one in copies:
                one.create_all(connection, checkfirst=False)
            return [thing for thing in map(_at_home, read_catalogue(connection)) if thing]
        finally:
            savepoint.rollback()


def _at_home(thing: Thing) -> Thing | None:
    """Return a thing of the twin as if it stood where the models say; None for any other."""
    schema = thing.schema or ""
    if not schema.startswith(_SCHEMA):
        return None
    home = schema.removeprefix(_SCHEMA).removeprefix("_") or None
    facts = {fact: _without_prefix(value) for fact, value in thing.facts.items()}
    # The convention of names puts a table's schema into those of its indexes.
    name = _without_prefix(thing.name) if thing.name else None
    return Thing(home, thing.table, thing.kind, name, facts)


def _without_prefix(words: str) -> str:
    return words.replace(f"{_SCHEMA}_", "").replace(f"{_SCHEMA}.", "")


def _group(things: Iterable[Thing]) -> dict[Place, Facts]:
    groups: dict[Place, Facts] = {}
    for thing in things:
        facts = dict(thing.facts)
        if thing.kind == "index":
            facts["definition"] = re.sub(r" ON .*? USING ", " USING ", facts["definition"], count=1)
        groups.setdefault(thing.place, {})[thing.kind, (thing.name or "").lower()] = facts
    return groups
