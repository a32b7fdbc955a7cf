"""Enum types of PostgreSQL: what a revision must create, change and drop, wherever it is made."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alembic.operations.ops import (
    AddColumnOp,
    AlterColumnOp,
    CreateTableOp,
    MigrateOperation,
    MigrationScript,
    ModifyTableOps,
    OpContainer,
)
from sqlalchemy import ARRAY, Column, DefaultClause, Enum, MetaData, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGInspector
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..scripts import read_revisions
from ..sql_text import quote_literal
from .defaults import normalise_default
from .enum_history import EnumHistory, Enums, qualify_name, replay_enums
from .operations import PostgresOp, SQLiteOps

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]
_QUOTE = _POSTGRES.identifier_preparer.quote


def add_enum_steps(
    script: MigrationScript, metadata: Iterable[MetaData], context: "MigrationContext"
) -> None:
    """Add the statements that create, change and drop enums, around the other steps."""
    before = read_enums(context)
    after: Enums = {}
    columns: dict[str, list[Column[Any]]] = {}
    for column in _list_columns(metadata):
        for enum in find_enums(column.type):
            name = qualify_name(enum.schema, enum.name or "")
            after[name] = tuple(enum.enums)
            columns.setdefault(name, []).append(column)
    first, last = script.upgrade_ops_list[0].ops, script.downgrade_ops_list[-1].ops
    made = set(_find_new_columns(first))
    if new := sorted(after.keys() - before.keys()):
        first.insert(0, PostgresOp(_create_type(name, after[name]) for name in new))
        last.append(PostgresOp(f"DROP TYPE {name}" for name in new))
    # What only others use is theirs.
    if gone := sorted(read_history(context).types.keys() & before.keys() - after.keys()):
        script.upgrade_ops_list[-1].ops.append(PostgresOp(f"DROP TYPE {name}" for name in gone))
        script.downgrade_ops_list[0].ops.insert(
            0, PostgresOp(_create_type(name, before[name]) for name in gone)
        )
    for name in sorted(after.keys() & before.keys()):
        # Their order is not compared: making a type anew rewrites its tables.
        if set(before[name]) != set(after[name]):
            kept = [column for column in columns[name] if _locate_column(column) not in made]
            first[:0] = _change_members(name, before[name], after[name], kept)
            last.extend(_change_members(name, after[name], before[name], kept))


def _list_columns(metadata: Iterable[MetaData]) -> Iterator[Column[Any]]:
    for table in (table for one in metadata for table in one.sorted_tables):
        yield from table.columns


def _find_new_columns(steps: Iterable[MigrateOperation]) -> Iterator[tuple[str | None, str, str]]:
    for step in steps:
        if isinstance(step, OpContainer):
            yield from _find_new_columns(step.ops)
        elif isinstance(step, AddColumnOp):
            yield step.schema, step.table_name, step.column.name
        elif isinstance(step, CreateTableOp):
            for item in step.columns:
                if isinstance(item, Column):
                    yield step.schema, step.table_name, item.name


def _locate_column(column: Column[Any]) -> tuple[str | None, str, str]:
    return column.table.schema, column.table.name, column.name


def is_known_enum(context: "MigrationContext", kind: TypeEngine[Any]) -> bool:
    """Return whether a type is an enum that exists, so that its members are compared elsewhere."""
    names = [qualify_name(enum.schema, enum.name or "") for enum in find_enums(kind)]
    return bool(names) and read_enums(context).keys() >= set(names)


def find_enums(kind: TypeEngine[Any]) -> Iterator[postgresql.ENUM]:
    """Yield the enum that a type is on PostgreSQL, or is a list of."""
    found = kind.dialect_impl(_POSTGRES)
    if isinstance(found, TypeDecorator):
        found = found.load_dialect_impl(_POSTGRES).dialect_impl(_POSTGRES)
    if isinstance(found, ARRAY):
        yield from find_enums(found.item_type)
    elif isinstance(found, postgresql.ENUM) and found.name:
        yield found


def read_enums(context: "MigrationContext") -> Enums:
    """Return the enum types as they are: in PostgreSQL itself, else as the revisions left them."""
    connection = context.connection
    if connection is None or connection.dialect.name != "postgresql":
        return read_history(context).types
    default = connection.dialect.default_schema_name
    inspector = cast(PGInspector, inspect(connection))
    return {
        qualify_name(enum["schema"] if enum["schema"] != default else None, enum["name"]): tuple(
            enum["labels"]
        )
        for enum in inspector.get_enums(schema="*")
    }


def read_history(context: "MigrationContext") -> EnumHistory:
    """Return the enums that the service's revisions leave behind."""
    if context.config is None:
        return EnumHistory()
    return replay_enums(Path(script.path) for script in read_revisions(context.config))


def _change_members(
    name: str, old: tuple[str, ...], new: tuple[str, ...], columns: list[Column[Any]]
) -> Iterator[MigrateOperation]:
    """Yield the steps that change the members, and on SQLite the columns that list them."""
    difference = ("modify_enum", name, old, new)
    if [label for label in new if label in old] == list(old):
        statements = [
            _add_member(name, old, new, at) for at, label in enumerate(new) if label not in old
        ]
        # A member can be used once the transaction that added it has ended.
        yield PostgresOp(statements, autocommit=True, difference=difference)
    else:
        yield PostgresOp(_recreate_type(name, new, columns), difference=difference)
    for column in columns:
        if isinstance(column.type, Enum) and (
            column.type.create_constraint or _longest_label(old) != _longest_label(new)
        ):
            yield SQLiteOps([_alter_column_type(column, column.type, old, new)])


def _recreate_type(name: str, new: tuple[str, ...], columns: list[Column[Any]]) -> Iterator[str]:
    """Yield the statements that create a type anew, as a member can't be removed."""
    schema, dot, plain = name.rpartition(".")
    aside = _QUOTE(f"{plain.strip(chr(34))}_before")
    yield f"ALTER TYPE {name} RENAME TO {aside}"
    yield _create_type(name, new)
    for column in columns:
        yield from _convert_column(column, name)
    yield f"DROP TYPE {schema}{dot}{aside}"


def _alter_column_type(
    column: Column[Any], kind: Enum, old: tuple[str, ...], new: tuple[str, ...]
) -> ModifyTableOps:
    before, after = (
        Enum(*labels, name=kind.name, create_constraint=kind.create_constraint)
        for labels in (old, new)
    )
    table = column.table
    step = AlterColumnOp(
        table.name,
        column.name,
        schema=table.schema,
        existing_type=before,
        modify_type=after,
        existing_nullable=column.nullable,
        existing_server_default=column.server_default or False,
    )
    return ModifyTableOps(table.name, [step], schema=table.schema)


def _longest_label(labels: tuple[str, ...]) -> int:
    return max(map(len, labels), default=0)


def _convert_column(column: Column[Any], name: str) -> Iterator[str]:
    """Yield the statements that give a column, and its default, the type that now has the name."""
    field = _QUOTE(column.name)
    alter = (
        f"ALTER TABLE {qualify_name(column.table.schema, column.table.name)} ALTER COLUMN {field}"
    )
    array = "[]" if isinstance(column.type.dialect_impl(_POSTGRES), ARRAY) else ""
    default = column.server_default
    if isinstance(default, DefaultClause):
        yield f"{alter} DROP DEFAULT"
    yield f"{alter} TYPE {name}{array} USING {field}::text{array}::{name}{array}"
    if isinstance(default, DefaultClause):
        value = default.arg
        text = quote_literal(value) if isinstance(value, str) else normalise_default(value)
        yield f"{alter} SET DEFAULT {text}"


def _create_type(name: str, labels: tuple[str, ...]) -> str:
    return f"CREATE TYPE {name} AS ENUM ({', '.join(map(quote_literal, labels))})"


def _add_member(name: str, old: tuple[str, ...], new: tuple[str, ...], index: int) -> str:
    place = ""
    if index:
        place = f" AFTER {quote_literal(new[index - 1])}"
    elif old:
        place = f" BEFORE {quote_literal(old[0])}"
    return f"ALTER TYPE {name} ADD VALUE IF NOT EXISTS {quote_literal(new[index])}{place}"
