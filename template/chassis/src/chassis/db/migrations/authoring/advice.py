"""What is said of a new revision when it is written, as its text does not show it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from alembic.operations.ops import (
    AddColumnOp,
    AlterColumnOp,
    CreateTableOp,
    DropColumnOp,
    DropTableOp,
    MigrateOperation,
    MigrationScript,
    ModifyTableOps,
)
from sqlalchemy import Column

_EMPTY = (
    "the revision is empty, as nothing differs that autogenerate compares: a model counts if "
    "models/__init__.py imports it; primary keys, and what SQLite does not keep (BIGINT, time "
    "zones, JSONB, comments), are compared by migrate --check"
)


def advise(script: MigrationScript) -> Iterator[str]:
    """Yield a line for each thing that is easily overlooked in a revision by autogenerate."""
    steps = [step for upgrade in script.upgrade_ops_list for step in upgrade.ops]
    if not steps:
        yield _EMPTY
    yield from _find_renamed_tables(steps)
    dropped, added = defaultdict[str, list[str]](list), defaultdict[str, list[Column[Any]]](list)
    for table in (step for step in steps if isinstance(step, ModifyTableOps)):
        for step in table.ops:
            if isinstance(step, DropColumnOp):
                dropped[table.table_name].append(step.column_name)
            elif isinstance(step, AddColumnOp):
                added[table.table_name].append(step.column)
            elif isinstance(step, AlterColumnOp) and step.modify_nullable is False:
                yield (
                    f"{table.table_name}.{step.column_name} becomes NOT NULL, which fails where a "
                    'row has none: op.execute("UPDATE …") before it'
                )
    for name, columns in added.items():
        yield from _find_renamed_columns(name, dropped[name], [one.name for one in columns])
        yield from _find_required_columns(name, columns)


def _find_renamed_tables(steps: Iterable[MigrateOperation]) -> Iterator[str]:
    old = [step.table_name for step in steps if isinstance(step, DropTableOp)]
    new = [step.table_name for step in steps if isinstance(step, CreateTableOp)]
    if old and new:
        yield (
            f"the revision drops {', '.join(old)} with all rows, and makes {', '.join(new)}: for a "
            f'rename write op.rename_table("{old[0]}", "{new[0]}") in place of both'
        )


def _find_renamed_columns(table: str, dropped: list[str], added: list[str]) -> Iterator[str]:
    # One that is in both is made anew, as its computed text changed.
    old = [name for name in dropped if name not in added]
    new = [name for name in added if name not in dropped]
    if old and new:
        yield (
            f"the revision drops {', '.join(old)} of {table} with what it holds, and adds "
            f'{", ".join(new)}: for a rename write op.alter_column("{table}", "{old[0]}", '
            f'new_column_name="{new[0]}") in place of both'
        )


def _find_required_columns(table: str, added: Iterable[Column[Any]]) -> Iterator[str]:
    for column in added:
        if not column.nullable and column.server_default is None:
            yield (
                f"{table}.{column.name} is NOT NULL without a default, which fails where the table "
                "has rows: give it a server_default, or add it with nullable=True, fill it, and "
                "alter it to nullable=False"
            )
