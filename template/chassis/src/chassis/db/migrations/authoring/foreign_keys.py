"""Foreign keys to a table that is made later, or dropped: both tables stand while they change."""

from typing import Any

from alembic.operations.ops import (
    CreateForeignKeyOp,
    CreateTableOp,
    DropTableOp,
    MigrationScript,
    ModifyTableOps,
)
from sqlalchemy import ForeignKeyConstraint


def add_foreign_keys_last(script: MigrationScript) -> None:
    """Move the foreign keys that close a circle behind the new tables; Alembic would lose them.

    The downgrade drops them first, for the tables to go one after the other.
    """
    for upgrade, downgrade in zip(script.upgrade_ops_list, script.downgrade_ops_list, strict=True):
        created = [step for step in upgrade.ops if isinstance(step, CreateTableOp)]
        later = [_take_late_keys(step, created[index:]) for index, step in enumerate(created)]
        added = [step for step in later if step.ops]
        upgrade.ops.extend(added)
        downgrade.ops[:0] = [step.reverse() for step in reversed(added)]


def drop_tables_last(script: MigrationScript) -> None:
    """Move the removal of tables behind that of the foreign keys to them.

    The downgrade makes them first.
    """
    for upgrade in script.upgrade_ops_list:
        upgrade.ops.sort(key=lambda step: isinstance(step, DropTableOp))
    for downgrade in script.downgrade_ops_list:
        downgrade.ops.sort(key=lambda step: not isinstance(step, CreateTableOp))


def _take_late_keys(table: CreateTableOp, not_before: list[CreateTableOp]) -> ModifyTableOps:
    names = {(step.schema, step.table_name) for step in not_before[1:]}
    late = [key for key in _list_foreign_keys(table) if _is_late(key, names)]
    table.columns = [item for item in table.columns if not any(item is key for key in late)]
    keys = [CreateForeignKeyOp.from_constraint(key) for key in late]
    for key in keys:
        key.kw.pop("use_alter", None)
    return ModifyTableOps(table.table_name, keys, schema=table.schema)


def _list_foreign_keys(table: CreateTableOp) -> list[ForeignKeyConstraint]:
    return [item for item in table.columns if isinstance(item, ForeignKeyConstraint)]


def _is_late(key: ForeignKeyConstraint, names: set[tuple[Any, ...]]) -> bool:
    return key.use_alter or (key.referred_table.schema, key.referred_table.name) in names
