"""Where a database differs from the tables that the models would make in it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from alembic.autogenerate.api import AutogenContext
from sqlalchemy import CheckConstraint, Index, MetaData, Table, text
from sqlalchemy.schema import conv

from .catalogue import CatalogueEntry, Place, read_catalogue
from .twin import read_twin

_FILTERED_AS = {
    "column": "column",
    "index": "index",
    "unique constraint": "unique_constraint",
    "foreign key": "foreign_key_constraint",
    "check": "check_constraint",
}


@dataclass(frozen=True)
class Difference:
    """What the migrations made and what the models want; None if only the other has it."""

    made: CatalogueEntry | None
    wanted: CatalogueEntry | None

    @property
    def entry(self) -> CatalogueEntry:
        """The entry of the models, if they have one."""
        entry = self.wanted or self.made
        assert entry is not None
        return entry

    @property
    def is_rename(self) -> bool:
        """Whether a constraint has another name in the models."""
        return len({one.name for one in (self.made, self.wanted) if one}) > 1

    @property
    def facts(self) -> Iterator[tuple[str, str, str]]:
        """Each fact that differs, with what the migrations made of it and what the models want."""
        made = self.made.facts if self.made else {}
        wanted = self.wanted.facts if self.wanted else {}
        for fact in sorted(made.keys() | wanted.keys()):
            old, new = made.get(fact, "none"), wanted.get(fact, "none")
            if old != new:
                yield fact, old, new


def find_differences(context: AutogenContext, metadata: Iterable[MetaData]) -> list[Difference]:
    """Compare the database with the models, as far as the service's filters include them.

    Raise sqlalchemy.exc.SQLAlchemyError if the models can't be made beside it.
    """
    assert context.connection is not None
    tables = find_tables(context, metadata)
    made = read_catalogue(context.connection)
    wanted = read_twin(context.connection, metadata)
    includes = _create_filter(context, tables, made)
    return [
        one
        for one in _pair_entries(*_choose_entries(tables, made, wanted))
        if (one.made is None or one.wanted is None or one.is_rename or any(one.facts))
        and includes(one.entry)
    ]


def find_tables(context: AutogenContext, metadata: Iterable[MetaData]) -> dict[Place, Table]:
    """Return the models' tables that the service's filters include, by their places."""
    return {
        (table.schema, table.name.lower()): table
        for one in metadata
        for table in one.sorted_tables
        if context.run_name_filters(table.name, "table", {"schema_name": table.schema})
        and context.run_object_filters(table, table.name, "table", False, None)
    }


def find_named(table: Table | None, kind: str, name: str | None) -> Any:
    """Return the column, index or constraint that has a name in any case; None without one."""
    if table is None or name is None:
        return None
    items: Iterable[Any] = table.constraints
    if kind == "column":
        items = table.columns
    elif kind == "index":
        items = table.indexes
    named = (item for item in items if item.name is not None)
    return next((item for item in named if item.name.lower() == name.lower()), None)


def _choose_entries(
    tables: dict[Place, Table], made: list[CatalogueEntry], wanted: list[CatalogueEntry]
) -> tuple[list[CatalogueEntry], list[CatalogueEntry]]:
    """Choose what belongs to the models' tables; of a missing table only the table itself."""
    ours = [one for one in made if one.place in tables]
    existing = {one.place for one in ours}
    sequences = {one.place for one in made if one.kind == "sequence"}
    return ours, [
        one
        for one in wanted
        if (one.kind == "sequence" and one.place not in sequences)
        or (one.place in tables and (one.kind == "table" or one.place in existing))
    ]


def _pair_entries(made: list[CatalogueEntry], wanted: list[CatalogueEntry]) -> Iterator[Difference]:
    """Pair entries by their names, the rest of the constraints by what they are."""
    unpaired = {one.key: one for one in wanted}
    left = []
    for one in made:
        if other := unpaired.pop(one.key, None):
            yield Difference(one, other)
        else:
            left.append(one)
    for one in left:
        same = [key for key, other in unpaired.items() if one.is_renamed(other)]
        yield Difference(one, unpaired.pop(same[0]) if same else None)
    yield from (Difference(None, other) for other in unpaired.values())


def _create_filter(
    context: AutogenContext, tables: dict[Place, Table], made: list[CatalogueEntry]
) -> Callable[[CatalogueEntry], bool]:
    """Return a function that asks the service's `include_name` and `include_object`."""
    reflected = _reflect(context, tables, made)

    def includes(entry: CatalogueEntry) -> bool:
        kind: Any = _FILTERED_AS.get(entry.kind)
        if kind is None:
            return True
        parents: Any = {"schema_name": entry.schema, "table_name": entry.table}
        if not context.run_name_filters(entry.name, kind, parents):
            return False
        item = find_named(tables.get(entry.place), entry.kind, entry.name)
        found = find_named(reflected.get(entry.place), entry.kind, entry.name)
        if item is not None:
            return context.run_object_filters(item, entry.name, kind, False, found)
        if found is None:
            found = _create_stub(entry)
        return found is None or context.run_object_filters(found, entry.name, kind, True, None)

    return includes


def _reflect(
    context: AutogenContext, tables: dict[Place, Table], made: list[CatalogueEntry]
) -> dict[Place, Table]:
    """Reflect the tables that exist, if the service has a filter that looks at them."""
    reflected = MetaData()
    if context.opts.get("include_object") is not None:
        assert context.connection is not None
        for place in {one.place for one in made} & tables.keys():
            table = tables[place]
            reflected.reflect(
                context.connection, schema=table.schema, only=[table.name], resolve_fks=False
            )
    return {(table.schema, table.name.lower()): table for table in reflected.tables.values()}


def _create_stub(entry: CatalogueEntry) -> Index | CheckConstraint | None:
    """Create what stands for an index or a CHECK that SQLAlchemy does not reflect."""
    stub: Index | CheckConstraint
    if entry.kind == "index":
        stub = Index(entry.name, text("1"))
    elif entry.kind == "check":
        stub = CheckConstraint(entry.facts["definition"], name=conv(entry.name or ""))
    else:
        return None
    Table(entry.table, MetaData(), stub, schema=entry.schema)
    return stub
