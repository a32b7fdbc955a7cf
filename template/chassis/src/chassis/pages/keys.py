"""The keys of an order: a column or an expression each, its direction, and where its NULLs go."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    LargeBinary,
    String,
    and_,
    bindparam,
    cast,
    false,
    or_,
    tuple_,
    type_coerce,
)
from sqlalchemy.orm import RelationshipProperty
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import (
    ColumnOperators,
    asc_op,
    desc_op,
    nulls_first_op,
    nulls_last_op,
)
from sqlalchemy.types import JSON, NullType, TypeDecorator

# A value of a key in a condition; None is NULL.
Bound = ColumnElement[Any] | None

_MODIFIERS = {asc_op, desc_op, nulls_first_op, nulls_last_op}


class _AsStored(TypeDecorator[Any]):
    """What a column of SQLite holds, of whatever type."""

    impl = NullType
    cache_ok = True


@dataclass(frozen=True)
class Key:
    """One part of an order."""

    column: ColumnElement[Any]
    descends: bool
    nulls_last: bool
    is_nullable: bool

    def select(self, dialect: str) -> ColumnElement[Any]:
        """Return the key as the database compares it; Python's value may have been rounded.

        SQLite has moments as text and a Numeric in binary. For asyncpg the year 9999 is infinity.
        """
        return (
            type_coerce(self.column, String) if dialect == "sqlite" else cast(self.column, String)
        )

    def bind(self, name: str, dialect: str) -> ColumnElement[Any]:
        """Return the parameter for a value that was selected."""
        if dialect == "sqlite":
            return bindparam(name, type_=_AsStored())
        return cast(bindparam(name, type_=String), self.column.type)

    def order_by(self) -> ColumnElement[Any]:
        """Return the part of ORDER BY, with NULLs at the same end on both databases."""
        part = self.column.desc() if self.descends else self.column.asc()
        if not self.is_nullable:
            return part
        return part.nulls_last() if self.nulls_last else part.nulls_first()

    def equals(self, bound: Bound) -> ColumnElement[bool]:
        return self.column.is_(None) if bound is None else self.column == bound

    def follows(self, bound: Bound) -> ColumnElement[bool]:
        """Return the condition of the rows whose key comes after a value."""
        if bound is None:
            return false() if self.nulls_last else self.column.is_not(None)
        after = self.column < bound if self.descends else self.column > bound
        return or_(after, self.column.is_(None)) if self.is_nullable and self.nulls_last else after


def read_key(part: Any, outer_tables: set[FromClause]) -> Key:
    """Return the key that a part of an order is. Raise TypeError for what can't be one."""
    if not isinstance(part, ColumnOperators) or isinstance(
        getattr(part, "property", None), RelationshipProperty
    ):
        raise TypeError(f"keyset(…, {part!r}): an order is of columns, such as Order.id.desc()")
    column: Any = part if isinstance(part, UnaryExpression) else part.asc()
    modifiers = set()
    while isinstance(column, UnaryExpression) and column.modifier in _MODIFIERS:
        modifiers.add(column.modifier)
        column = column.element
    _check_type(column)
    descends = desc_op in modifiers
    is_column = isinstance(column, Column)
    return Key(
        column,
        descends,
        # As in PostgreSQL's indexes, unless the order says otherwise.
        nulls_last=nulls_last_op in modifiers or not (descends or nulls_first_op in modifiers),
        is_nullable=not is_column or bool(column.nullable) or column.table in outer_tables,
    )


def _check_type(column: ColumnElement[Any]) -> None:
    kind = column.type
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    if isinstance(kind, NullType):
        raise TypeError(f"keyset(…, {column}): its type is unknown: type_coerce(…, String)")
    if isinstance(kind, JSON | LargeBinary):
        raise TypeError(f"keyset(…, {column}): the databases sort no {type(kind).__name__} alike")


def split_after(keys: Sequence[Key], bounds: Sequence[Bound]) -> list[ColumnElement[bool]]:
    """Return the conditions of the rows after a row with these keys, in the order of the rows.

    Two if the first key's NULLs come after its value: no index serves `key > 5 OR key IS NULL`.
    """
    first, bound = keys[0], bounds[0]
    if not first.is_nullable:
        return [_come_after(keys, bounds)]
    if bound is None:
        nulls = and_(first.column.is_(None), _come_after(keys[1:], bounds[1:]))
        return [nulls] if first.nulls_last else [nulls, first.column.is_not(None)]
    others = _come_after([replace(first, is_nullable=False), *keys[1:]], bounds)
    return [others, first.column.is_(None)] if first.nulls_last else [others]


def _come_after(keys: Sequence[Key], bounds: Sequence[Bound]) -> ColumnElement[bool]:
    first = keys[0]
    if all(key.descends is first.descends and not key.is_nullable for key in keys):
        row, last = tuple_(*(key.column for key in keys)), tuple_(*bounds)
        return row < last if first.descends else row > last
    pairs = list(zip(keys, bounds, strict=True))
    cases = [
        and_(*(key.equals(bound) for key, bound in pairs[:place]), pairs[place][0].follows(bound))
        for place, (_, bound) in enumerate(pairs)
    ]
    if first.is_nullable:
        return or_(*cases)
    # Where an index begins: none serves the OR.
    start = first.column <= bounds[0] if first.descends else first.column >= bounds[0]
    return and_(start, or_(*cases))
