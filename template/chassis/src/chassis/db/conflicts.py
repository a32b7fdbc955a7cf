"""Conflicts: which field of a request a rule of the database is about.

PostgreSQL names the rule that was broken, SQLite a CHECK or the columns of another. Either leads to
the rule in the metadata, and that says by its `info` what the client is told.
"""

import re
from typing import Any, NamedTuple, NoReturn
from weakref import WeakSet

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    event,
)
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Mapper
from sqlalchemy.schema import ColumnCollectionConstraint, SchemaItem
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.selectable import FromClause

from .errors import sqlstate

Rule = ColumnCollectionConstraint | Index

_INFO_KEY = "chassis_conflict"
# The tables with a rule that names a field, of all metadata.
_TABLES: WeakSet[Table] = WeakSet()
_UNIQUE, _CHECK, _FOREIGN_KEY = "UNIQUE", "CHECK", "FOREIGN KEY"
_SQLSTATES = {
    "23505": _UNIQUE,
    "23P01": _UNIQUE,  # exclusion_violation
    "23514": _CHECK,
    "23503": _FOREIGN_KEY,
}
_SQLITE_MESSAGE = re.compile(r"(UNIQUE|CHECK|FOREIGN KEY) constraint failed: (.*)")
# Of the statement that was refused: one that breaks its own table's foreign keys.
_INSERT_OR_UPDATE = r'\s*(?:INSERT\s+INTO|UPDATE)\s+(?:\w+\.)?"?{}\b'
# In `Key (tenant_id, name)=(1, bolt) already exists.`, which may be in any language.
_POSTGRES_COLUMNS = re.compile(r"\((.*?)\)=\(")


class Conflict(NamedTuple):
    """The field of a request, and what its client is told."""

    field: str
    message: str


def conflict(field: str, message: str) -> dict[Any, Any]:
    """Return the `info` of a rule by which its 409 names a field of the request.

    A rule is a `UniqueConstraint`, a unique `Index`, a primary key, an `ExcludeConstraint`, a
    `mapped_column(unique=True)`, a `CheckConstraint` with a name, or a `ForeignKey`, which is about
    a row that is not there. Any other raises InvalidRequestError when its table is made.
    """
    return {_INFO_KEY: Conflict(field, message)}


def find_conflict(error: BaseException) -> Conflict | None:
    """Return what the broken rule is about, or None if it does not say so.

    SQLite can't tell partial indexes of the same columns apart: all of them have to say the same.
    """
    broken = _describe_broken_rule(error) if isinstance(error, DBAPIError) else None
    found = {_search_table(table, broken) for table in _TABLES} - {None} if broken else set()
    return found.pop() if len(found) == 1 else None


def _search_table(table: Table, broken: str) -> Conflict | None:
    rules = [rule for rule in _find_rules(table) if _describe_rule(table, rule) == broken]
    said = {_read_conflict(rule) for rule in rules}
    return said.pop() if len(said) == 1 else None


def _describe_broken_rule(error: DBAPIError) -> str | None:
    """Return the kind of rule that an error is about, and its columns or its name."""
    if not sqlstate(error):
        # The foreign key is a detail that was added.
        found = map(_SQLITE_MESSAGE.fullmatch, (str(error.orig), *error.detail))
        return next((f"{one[1]} {one[2]}" for one in found if one), None)
    kind = _SQLSTATES.get(sqlstate(error))
    broken: Any = error.driver_exception
    table, name = (getattr(broken, part, None) for part in ("table_name", "constraint_name"))
    if kind is None or (kind == _FOREIGN_KEY and not _is_written(table, error.statement)):
        return None
    for known in _TABLES:
        for rule in _find_rules(known):
            if (known.name, rule.name) == (table, name):
                return _describe_rule(known, rule)
    # The metadata has another name for it, or none.
    columns = _POSTGRES_COLUMNS.search(getattr(broken, "detail", None) or "")
    found_columns = columns[1].replace('"', "").split(", ") if columns else []
    return f"{kind} " + ", ".join(f"{table}.{column}" for column in found_columns)


def _is_written(table: str | None, statement: str | None) -> bool:
    """Return whether a statement writes a table, whose row leads nowhere; else a parent is kept."""
    pattern = _INSERT_OR_UPDATE.format(re.escape(str(table)))
    return re.match(pattern, statement or "", re.IGNORECASE) is not None


def _find_rules(table: Table) -> list[Rule]:
    rules = (*table.constraints, *table.indexes)
    return [rule for rule in rules if isinstance(rule, Rule) and _explain_refusal(rule) is None]


def _describe_rule(table: Table, rule: Rule) -> str:
    """Return how SQLite describes a rule: by its columns, or by its name if it has others."""
    if isinstance(rule, CheckConstraint):
        return f"{_CHECK} {rule.name}"
    kind = _FOREIGN_KEY if isinstance(rule, ForeignKeyConstraint) else _UNIQUE
    if kind == _FOREIGN_KEY or _is_of_columns(rule):
        return f"{kind} " + ", ".join(f"{table.name}.{column.name}" for column in rule.columns)
    return f"{kind} index '{rule.name}'"


def _is_of_columns(rule: Rule) -> bool:
    if not isinstance(rule, Index):
        return isinstance(rule, UniqueConstraint | PrimaryKeyConstraint)
    # Descending, or with nulls first, a column is one still.
    parts = (
        part.element if isinstance(part, UnaryExpression) and part.modifier else part
        for part in rule.expressions
    )
    return all(isinstance(part, Column) for part in parts)


def _read_conflict(rule: Rule) -> Conflict | None:
    """Return what a rule is about, or the one column of which it is made."""
    infos = [rule.info]
    if isinstance(rule, ForeignKeyConstraint):
        infos += [part.info for part in rule.elements]
    if _is_of_columns(rule) and (len(rule.columns) == 1 or isinstance(rule, PrimaryKeyConstraint)):
        infos += [column.info for column in rule.columns]
    return next((info[_INFO_KEY] for info in infos if _INFO_KEY in info), None)


@event.listens_for(Column, "after_parent_attach")
@event.listens_for(ColumnCollectionConstraint, "after_parent_attach")
@event.listens_for(ForeignKey, "after_parent_attach")
@event.listens_for(Index, "after_parent_attach")
def note_conflict(item: Column[Any] | ForeignKey | Rule, parent: SchemaItem) -> None:
    """Note a table of which a rule says what it is about. Raise InvalidRequestError for no rule."""
    parts = item.elements if isinstance(item, ForeignKeyConstraint) else []
    if any(_INFO_KEY in one.info for one in (item, *parts)):
        if refusal := _explain_refusal(item):
            _refuse_rule(item, parent, refusal)
        if isinstance(parent, Table):
            _TABLES.add(parent)


@event.listens_for(Mapper, "after_mapper_constructed")
def check_conflicts_of_model(mapper: Mapper[Any], model: type[Any]) -> None:
    """Raise InvalidRequestError for a column of a model that is not unique."""
    check_conflicts_of_columns(mapper.local_table)


def check_conflicts_of_columns(table: FromClause) -> None:
    """Raise InvalidRequestError for a column that is not unique; Alembic's copies never are."""
    # A class may be mapped to a query, too, whose columns are others.
    for column in table.columns:
        if not isinstance(column, Column) or column.unique or column.primary_key:
            continue
        if _INFO_KEY in column.info and not _is_unique_alone(column):
            _refuse_rule(column, table, "it is not unique; mapped_column(unique=True, …)")


def _is_unique_alone(column: Column[Any]) -> bool:
    """Return whether the table has a unique rule of this column, which reads its `info`."""
    rules = _find_rules(column.table) if isinstance(column.table, Table) else []
    return any(_is_of_columns(rule) and [*rule.columns] == [column] for rule in rules)


def _refuse_rule(item: Any, parent: object, reason: str) -> NoReturn:
    field = item.info[_INFO_KEY].field
    kind = type(item).__name__
    raise InvalidRequestError(f"{parent}: conflict({field!r}, …) at a {kind}: {reason}")


def _explain_refusal(item: Column[Any] | ForeignKey | Rule) -> str | None:
    """Return why something is no unique rule of its table, or None if it may be."""
    match item:
        case CheckConstraint() if item.name is None:
            return 'PostgreSQL would give it a name of its own; CheckConstraint(…, name="…")'
        case Index() if not item.unique:
            return "it is not unique; Index(…, unique=True)"
    return None
