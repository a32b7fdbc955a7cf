"""What migrations and models disagree on, in words: a line for each difference."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .catalogue import CatalogueEntry
from .differences import Difference

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
class Drift:
    """Lines that need a revision, and lines that are only worth a look."""

    differences: list[str]
    notes: list[str]


def describe_drift(differences: Iterable[Difference]) -> Drift:
    """Return a line for each difference, with the operation that mends it."""
    lines: list[str] = []
    notes: list[str] = []
    for one in differences:
        if one.made and one.wanted:
            lines += _describe_changes(one)
            notes += [_describe_rename(one.made, one.wanted)] if one.is_rename else []
        else:
            lines.append(_describe_missing(one.entry, in_models=one.made is None))
    return Drift(sorted(lines), sorted(notes))


def _describe_changes(difference: Difference) -> Iterator[str]:
    entry = difference.entry
    for fact, old, new in difference.facts:
        cure = _CHANGED.get(fact, _suggest_recreation(entry.kind))
        place = _describe_place(entry)
        yield f"{place}: {fact} is {new} in the models, {old} by the migrations: {cure}"


def _suggest_recreation(kind: str) -> str:
    if kind == "column":
        return "op.alter_column, or op.drop_column and op.add_column"
    drop = _ONLY_MIGRATIONS.get(kind, "op.drop_constraint")
    return f"{drop} and {_ONLY_MODELS.get(kind, 'op.create_table')}"


def _describe_missing(entry: CatalogueEntry, *, in_models: bool) -> str:
    what = _describe_place(entry)
    if "definition" in entry.facts:
        what += f" ({entry.facts['definition']})"
    if in_models:
        return f"{what} is only in the models: {_ONLY_MODELS[entry.kind]}"
    cure = _ONLY_MIGRATIONS.get(entry.kind, "op.drop_constraint")
    return f"{what} is only in the migrations: {cure}, or add it to the model"


def _describe_rename(made: CatalogueEntry, wanted: CatalogueEntry) -> str:
    return (
        f"{_describe_place(made)} ({made.facts['definition']}) has another name in the models, "
        f"{wanted.name or 'none'}: a later revision can't drop it by that name"
    )


def _describe_place(entry: CatalogueEntry) -> str:
    table = entry.table if entry.schema is None else f"{entry.schema}.{entry.table}"
    if entry.kind in ("table", "sequence"):
        return f"{entry.kind} {table}"
    return f"table {table}, {entry.kind}" + (f" {entry.name}" if entry.name else "")


def describe_missed(drift: Drift, found: list[Any]) -> list[str]:
    """Return a line for each of Alembic's differences in tables that no other line names."""
    differences = [one[0] if isinstance(one, list) else one for one in found]
    told = {line.replace(",", " ").split()[1] for line in drift.differences}
    if any(": members is " in line for line in drift.differences):
        differences = [one for one in differences if one[0] != "modify_enum"]
    return [_describe_found(one) for one in differences if not told & set(_find_names(one))]


def _describe_found(difference: Any) -> str:
    return (
        f"alembic check: {' '.join([difference[0], *_find_names(difference)])}: "
        "alembic revision --autogenerate writes it, on a database of this engine"
    )


def _find_names(difference: Any) -> list[str]:
    """Return the names in a difference of Alembic: its table's, then that of what differs."""
    parts = [part for part in difference[1:] if part is not None]
    tables = [getattr(part, "table", None) for part in parts]
    named = [getattr(part, "name", part) for part in (*tables, *parts)]
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))
