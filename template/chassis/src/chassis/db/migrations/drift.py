"""Where a schema that the migrations made differs from the one that the models would make."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, Table

from .catalogue import Thing, read_catalogue

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.config import Config

_FILTERED_AS = {
    "table": "table",
    "column": "column",
    "index": "index",
    "unique constraint": "unique_constraint",
    "foreign key": "foreign_key_constraint",
    "check": "check_constraint",
}
_ONLY_MODELS = {
    "table": "op.create_table",
    "column": "op.add_column",
    "index": "op.create_index",
    "unique constraint": "op.create_unique_constraint",
    "foreign key": "op.create_foreign_key",
    "check": "op.create_check_constraint",
    "primary key": "op.create_primary_key",
    "exclusion constraint": "op.create_exclude_constraint",
    "sequence": 'op.execute("CREATE SEQUENCE …")',
}
_ONLY_MIGRATIONS = {"column": "op.drop_column", "index": "op.drop_index"}
_CHANGED = {
    "type": "op.alter_column(…, type_=…)",
    "members": "alembic revision --autogenerate",
    "nullability": "op.alter_column(…, nullable=…)",
    "default": "op.alter_column(…, server_default=…)",
    "comment": "op.alter_column(…, comment=…)",
    "computed": "op.drop_column and op.add_column",
}


@dataclass(frozen=True)
class Migrated:
    """What the migrations made, and what the service's `env.py` says is to be compared."""

    things: list[Thing]
    metadata: tuple[MetaData, ...]
    tables: tuple[Table, ...]
    includes: Callable[[Thing], bool]


@dataclass(frozen=True)
class Drift:
    """Lines that need a revision, and lines that are only worth a look."""

    differences: list[str]
    notes: list[str]


def read_migrated(config: "Config") -> Migrated:
    """Read what the migrations made of the database, as the service's `env.py` connects to it."""
    from alembic.autogenerate.api import AutogenContext
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    read: list[Migrated] = []

    def read_database(_: Any, context: Any) -> list[Any]:
        filters = AutogenContext(context, autogenerate=False)
        read.append(_read(filters, context.opts.get("include_object") is not None))
        return []

    script = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, script, fn=read_database):
        script.run_env()
    return read[0]


def compare_with_models(migrated: Migrated, modelled: list[Thing]) -> Drift:
    """Compare what the migrations made with what the models would make."""
    drift = Drift([], [])
    for made, wanted in _pair(*_choose(migrated, modelled)):
        thing = wanted or made
        if thing is None or not migrated.includes(thing):
            continue
        if made is None or wanted is None:
            drift.differences.append(_describe_missing(thing, in_models=made is None))
            continue
        drift.differences.extend(_describe_changes(made, wanted))
        if made.name != wanted.name:
            drift.notes.append(_describe_rename(made, wanted))
    return Drift(sorted(drift.differences), sorted(drift.notes))


def _choose(migrated: Migrated, modelled: list[Thing]) -> tuple[list[Thing], list[Thing]]:
    """Choose what belongs to the models' tables; of a missing table only the table itself."""
    ours = {(table.schema, table.name.lower()) for table in migrated.tables}
    made = [one for one in migrated.things if one.place in ours]
    existing = {one.place for one in made}
    sequences = {one.place for one in migrated.things if one.kind == "sequence"}
    wanted = [
        one
        for one in modelled
        if (one.kind == "sequence" and one.place not in sequences)
        or (one.place in ours and (one.kind == "table" or one.place in existing))
    ]
    return made, wanted


def _read(filters: "AutogenContext", has_object_filter: bool) -> Migrated:
    connection, given = filters.connection, filters.metadata
    if connection is None or given is None:
        raise RuntimeError("the migrations' env.py names no metadata")
    metadata = (given,) if isinstance(given, MetaData) else tuple(given)
    tables = tuple(
        table
        for one in metadata
        for table in one.sorted_tables
        if filters.run_name_filters(table.name, "table", {"schema_name": table.schema})
        and filters.run_object_filters(table, table.name, "table", False, None)
    )
    things = read_catalogue(connection)
    reflected = MetaData()
    if has_object_filter:
        existing = {(one.schema, one.table) for one in things}
        for table in tables:
            if (table.schema, table.name) in existing:
                reflected.reflect(
                    connection, schema=table.schema, only=[table.name], resolve_fks=False
                )
    return Migrated(things, metadata, tables, _create_filter(filters, tables, reflected))


def _create_filter(
    filters: "AutogenContext", tables: tuple[Table, ...], reflected: MetaData
) -> Callable[[Thing], bool]:
    models = {table.key: table for table in tables}

    def includes(thing: Thing) -> bool:
        kind: Any = _FILTERED_AS.get(thing.kind)
        if kind is None or kind == "table":
            return True
        key = thing.table if thing.schema is None else f"{thing.schema}.{thing.table}"
        parents: Any = {"schema_name": thing.schema, "table_name": thing.table}
        item = _find(models.get(key), thing)
        other = _find(reflected.tables.get(key), thing)
        if not filters.run_name_filters(thing.name, kind, parents):
            return False
        if item is None:
            return other is None or filters.run_object_filters(other, thing.name, kind, True, None)
        return filters.run_object_filters(item, thing.name, kind, False, other)

    return includes


def _find(table: Table | None, thing: Thing) -> Any:
    if table is None:
        return None
    if thing.kind == "column":
        return table.columns.get(thing.name or "")
    items: set[Any] = table.indexes if thing.kind == "index" else table.constraints
    return next((item for item in items if item.name == thing.name), None)


def _pair(made: list[Thing], wanted: list[Thing]) -> Iterator[tuple[Thing | None, Thing | None]]:
    """Pair things by their names, the rest of the constraints by what they are."""
    unpaired = {one.key: one for one in wanted}
    left = []
    for one in made:
        if other := unpaired.pop(one.key, None):
            yield one, other
        else:
            left.append(one)
    for one in left:
        same = [key for key, other in unpaired.items() if one.is_renamed(other)]
        yield one, unpaired.pop(same[0]) if same else None
    yield from ((None, other) for other in unpaired.values())


def _describe_changes(made: Thing, wanted: Thing) -> Iterator[str]:
    for fact in sorted(made.facts.keys() | wanted.facts.keys()):
        old, new = made.facts.get(fact, "none"), wanted.facts.get(fact, "none")
        if old != new:
            cure = _CHANGED.get(fact, _recreate(made.kind))
            yield f"{_place(made)}: {fact} is {new} in the models, {old} by the migrations: {cure}"


def _recreate(kind: str) -> str:
    if kind == "column":
        return "op.alter_column, or op.drop_column and op.add_column"
    drop = _ONLY_MIGRATIONS.get(kind, "op.drop_constraint")
    return f"{drop} and {_ONLY_MODELS.get(kind, 'op.create_table')}"


def _describe_missing(thing: Thing, *, in_models: bool) -> str:
    definition = f" ({thing.facts['definition']})" if "definition" in thing.facts else ""
    if in_models:
        return f"{_place(thing)}{definition} is only in the models: {_ONLY_MODELS[thing.kind]}"
    cure = _ONLY_MIGRATIONS.get(thing.kind, "op.drop_constraint")
    return f"{_place(thing)}{definition} is only in the migrations: {cure}, or add it to the model"


def _describe_rename(made: Thing, wanted: Thing) -> str:
    return (
        f"{_place(made)} ({made.facts['definition']}) has another name in the models, "
        f"{wanted.name or 'none'}: a later revision can't drop it by that name"
    )


def _place(thing: Thing) -> str:
    table = thing.table if thing.schema is None else f"{thing.schema}.{thing.table}"
    if thing.kind in ("table", "sequence"):
        return f"{thing.kind} {table}"
    return f"table {table}, {thing.kind}" + (f" {thing.name}" if thing.name else "")


def describe_missed(drift: Drift, found: list[Any]) -> list[str]:
    """Return what Alembic found in tables without another difference, as `remove_table bin`."""
    differences = [one[0] if isinstance(one, list) else one for one in found]
    told = {line.replace(",", " ").split()[1] for line in drift.differences}
    if any(": members is " in line for line in drift.differences):
        differences = [one for one in differences if one[0] != "modify_enum"]
    return [_describe_found(one) for one in differences if not told & set(_find_names(one))]


def _describe_found(difference: Any) -> str:
    return (
        f"alembic check: {' '.join([difference[0], *_find_names(difference)])}: "
        "alembic revision --autogenerate writes it"
    )


def _find_names(difference: Any) -> list[str]:
    """Return the table and what it is about in it, of one of Alembic's differences."""
    parts = [part for part in difference[1:] if part is not None]
    tables = [getattr(part, "table", None) for part in parts]
    named = [getattr(part, "name", part) for part in (*tables, *parts)]
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))
