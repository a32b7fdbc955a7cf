"""Whether an order tells all rows of a statement apart: of equal ones, a page could skip some."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Alias,
    Column,
    ColumnElement,
    FromClause,
    Join,
    Select,
    Table,
    UniqueConstraint,
)
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList
from sqlalchemy.sql.operators import and_, eq

Statement = Select[*tuple[Any, ...]]


@dataclass
class Sources:
    """The tables of a statement, those of outer joins, and the columns that a join equates."""

    tables: list[FromClause] = field(default_factory=list)
    outer: set[FromClause] = field(default_factory=set)
    equal: list[tuple[Any, Any]] = field(default_factory=list)


def read_sources(statement: Statement) -> Sources:
    """Return what a statement selects from."""
    sources = Sources()
    for source in statement.get_final_froms():
        _add_source(source, sources, is_outer=False)
    sources.equal += _find_equal(statement.whereclause)
    return sources


def check_unique(sources: Sources, columns: Iterable[ColumnElement[Any]]) -> None:
    """Raise ValueError unless rows that have the same values in some columns are the same row."""
    known = set(columns)
    unknown = list(sources.tables)
    before = -1
    while before < len(known):
        before = len(known)
        for table in list(unknown):
            if any(known >= key for key in _find_keys(table)):
                known |= set(table.c)
                unknown.remove(table)
        known |= {
            other for one, other in sources.equal if one in known and one.table not in sources.outer
        }
    for table in unknown:
        key = next(_find_keys(table), None)
        if key is None:
            raise ValueError(f"keyset(…): {table} has no primary key to tell its rows apart by")
        names = ", ".join(sorted(map(str, key)))
        raise ValueError(
            f"keyset(…): several rows may have the same keys, and a page would skip some: add "
            f"{names} to the order; a row that a join repeats is better found by EXISTS, any()"
        )


def _add_source(source: FromClause, sources: Sources, *, is_outer: bool) -> None:
    if isinstance(source, Join):
        _add_source(source.left, sources, is_outer=is_outer or source.full)
        _add_source(source.right, sources, is_outer=is_outer or source.isouter or source.full)
        # An outer join keeps rows for which its condition is false.
        sources.equal += [
            (one, other)
            for one, other in _find_equal(source.onclause)
            if other.table in sources.outer or not (source.isouter or source.full)
        ]
        return
    sources.tables.append(source)
    if is_outer:
        sources.outer.add(source)


def _find_equal(condition: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of columns that a condition makes equal, each in both directions."""
    if isinstance(condition, BooleanClauseList) and condition.operator is and_:
        for clause in condition.clauses:
            yield from _find_equal(clause)
    elif isinstance(condition, BinaryExpression) and condition.operator is eq:
        pair = condition.left, condition.right
        if all(isinstance(side, Column) for side in pair):
            yield pair
            yield pair[::-1]


def _find_keys(source: FromClause) -> Iterator[set[Any]]:
    """Yield the sets of columns whose values no two rows share, the primary key first."""
    table = source.element if isinstance(source, Alias) else source
    # Not `source.primary_key`: that of an annotated alias may have other columns than its `c`.
    primary = {column for column in source.c if getattr(column, "primary_key", False)}
    if isinstance(table, Table) and primary:
        yield primary
    if isinstance(source, Table):
        rules: list[Any] = [
            rule for rule in source.constraints if isinstance(rule, UniqueConstraint)
        ]
        # A condition would be among the options of a dialect.
        rules += [index for index in source.indexes if index.unique and not index.dialect_kwargs]
        for rule in rules:
            parts = list(getattr(rule, "expressions", rule.columns))
            # NULLs are distinct: many rows may have them.
            if all(isinstance(part, Column) and not part.nullable for part in parts):
                yield set(parts)
