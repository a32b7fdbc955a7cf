"""Types and defaults in a revision: text that both engines take."""

from collections.abc import Iterable
from typing import Any, Literal

import sqlalchemy
from alembic.operations.ops import (
    AddColumnOp,
    AlterColumnOp,
    CreateTableOp,
    MigrateOperation,
    OpContainer,
)
from sqlalchemy import CHAR, JSON, Boolean, Column, DateTime, Double, Enum, Integer, String, Uuid
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import CompileError
from sqlalchemy.schema import DefaultClause
from sqlalchemy.types import TypeDecorator, TypeEngine

from .defaults import render_default
from .enum_history import EnumHistory

DIALECTS = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.dialect(),  # type: ignore[no-untyped-call]
}


class ItemRenderer:
    """Renders types of the service as plain ones, and defaults for both engines.

    Alembic renders a column first, then its default and its type, which depend on it.
    """

    def __init__(self) -> None:
        self._type: TypeEngine[Any] | None = None
        self._is_autoincrement = False

    def render(self, kind: str, item: Any) -> str | Literal[False]:
        """Return the text of an item, or False for what Alembic renders itself."""
        match kind:
            case "column":
                self._type = item.type
                self._is_autoincrement = is_autoincrement(item)
            case "type":
                is_key = self._is_autoincrement and item is self._type
                self._type = item
                return _render_key(item) if is_key else _render_type(item)
            case "server_default" if isinstance(item, str | DefaultClause):
                return render_default(item, is_boolean=isinstance(self._type, Boolean))
        return False


def is_autoincrement(column: Column[Any]) -> bool:
    """Return whether a column is a key that counts by itself."""
    return column.table is not None and column is column.table.autoincrement_column


def _render_key(item: TypeEngine[Any]) -> str | Literal[False]:
    # SQLite counts a key only if it is an INTEGER, whose values have 64 bits there.
    if isinstance(item, Integer) and _compile_type(item, "sqlite") != "INTEGER":
        return f'{_render_plain(item)}.with_variant(sa.Integer(), "sqlite")'
    return _render_type(item)


def _render_type(item: TypeEngine[Any]) -> str | Literal[False]:
    if type(item) is JSON and _compile_type(item, "postgresql") == "JSONB":
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    if isinstance(item, TypeDecorator) and not _is_portable_class(type(item)):
        return _render_decorator(item)
    return False


def _render_decorator(item: TypeDecorator[Any]) -> str:
    """Return the text of what a decorator stands for: a revision outlives the service's code."""
    plain = item.load_dialect_impl(DefaultDialect())
    text = _render_type(plain) or _render_plain(plain)
    for name, dialect in DIALECTS.items():
        if _compile_type(item, name) != _compile_type(plain, name):
            variant = item.dialect_impl(dialect)
            if isinstance(variant, TypeDecorator):
                variant = variant.load_dialect_impl(dialect)
            text += f".with_variant({_render_plain(variant)}, {name!r})"
    return text


def _render_plain(item: TypeEngine[Any]) -> str:
    public = next(kind for kind in type(item).__mro__ if _is_portable_class(kind))
    module = "postgresql" if public.__module__.startswith("sqlalchemy.dialects") else "sa"
    return f"{module}.{(item if public is type(item) else item.adapt(public))!r}"


def _is_portable_class(kind: type) -> bool:
    return any(getattr(module, kind.__name__, None) is kind for module in (sqlalchemy, postgresql))


def _compile_type(item: TypeEngine[Any], dialect: str) -> str | None:
    try:
        return item.compile(dialect=DIALECTS[dialect])
    except CompileError:
        return None


def generalise_types(steps: Iterable[MigrateOperation], history: EnumHistory) -> None:
    """Replace the types in the steps of a downgrade, as the database names them.

    A downgrade makes again what is there, and SQLite does not keep all that the models said of it.
    """
    for step in steps:
        if isinstance(step, OpContainer):
            generalise_types(step.ops, history)
        elif isinstance(step, AddColumnOp):
            _generalise_column(step.column, step.table_name, history)
        elif isinstance(step, CreateTableOp):
            for item in step.columns:
                if isinstance(item, Column):
                    _generalise_column(item, step.table_name, history)
        elif isinstance(step, AlterColumnOp) and step.modify_type is not None:
            step.modify_type = _generalise_type(step.modify_type)


def _generalise_column(column: Column[Any], table: str, history: EnumHistory) -> None:
    """Give a column of the database the type that its model has: SQLite keeps an enum as text."""
    # Read from a database it is True or False, which Alembic would write down; a model says auto.
    column.autoincrement = "auto"
    enum = history.columns.get((table, column.name))
    if enum in history.types and isinstance(column.type, String):
        column.type = Enum(*history.types[enum], name=enum.strip('"'))
    else:
        column.type = _generalise_type(column.type)


def _generalise_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type that a model has by the rules of `Base` if it could be one of several."""
    match kind:
        case postgresql.ENUM():
            return Enum(*kind.enums, name=kind.name, schema=kind.schema)
        case postgresql.JSON() if not isinstance(kind, postgresql.JSONB):
            return JSON()
        case JSON():
            return JSON().with_variant(postgresql.JSONB(), "postgresql")
        case CHAR(length=32):
            return Uuid()
        case DateTime():
            # SQLite forgets the time zone, and a moment has one.
            is_postgres = isinstance(kind, postgresql.TIMESTAMP)
            return DateTime(timezone=kind.timezone if is_postgres else True)
        case Double():
            return Double()
    try:
        return kind.as_generic()
    except NotImplementedError:
        return kind
