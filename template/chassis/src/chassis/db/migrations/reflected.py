"""Types as a database names them, written so that the other engine takes them, too.

A downgrade makes again what is there, and SQLite does not keep all that the models said of it.
"""

from collections.abc import Iterable
from typing import Any

from alembic.operations.ops import (
    AddColumnOp,
    AlterColumnOp,
    CreateTableOp,
    MigrateOperation,
    OpContainer,
)
from sqlalchemy import CHAR, JSON, Column, DateTime, Double, Enum, String, Uuid
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from .enum_history import EnumHistory


def generalise_types(steps: Iterable[MigrateOperation], history: EnumHistory) -> None:
    """Replace the types of what a downgrade makes again."""
    for step in steps:
        if isinstance(step, OpContainer):
            generalise_types(step.ops, history)
        elif isinstance(step, AddColumnOp):
            _generalise(step.column, step.table_name, history)
        elif isinstance(step, CreateTableOp):
            for item in step.columns:
                if isinstance(item, Column):
                    _generalise(item, step.table_name, history)
        elif isinstance(step, AlterColumnOp) and step.modify_type is not None:
            step.modify_type = generalise_type(step.modify_type)


def _generalise(column: Column[Any], table: str, history: EnumHistory) -> None:
    column.autoincrement = "auto"
    name = history.columns.get((table, column.name))
    if name in history.types and isinstance(column.type, String):
        column.type = Enum(*history.types[name], name=name.strip('"'))
    else:
        column.type = generalise_type(column.type)


def generalise_type(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type that the models have by the rules of `Base`, where it could be several."""
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
