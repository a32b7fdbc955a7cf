"""Steps of a revision for what Alembic does not compare: defaults, computed texts, CHECKs, indexes.

Both sides are read from a database: the models are made beside the tables, and removed.
"""

import logging
from collections.abc import Container, Iterable, Iterator
from typing import Any

from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import (
    AddColumnOp,
    AlterColumnOp,
    CreateCheckConstraintOp,
    CreateIndexOp,
    CreateTableOp,
    DropColumnOp,
    DropConstraintOp,
    DropIndexOp,
    MigrateOperation,
    MigrationScript,
    ModifyTableOps,
)
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    DefaultClause,
    Enum,
    MetaData,
    Table,
    inspect,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable, conv

from ..sql_text import strip_casts, strip_parentheses
from .catalogue import Place
from .differences import Difference, find_differences, find_named, find_tables
from .operations import DropIndex, RefusedOp, SQLiteOps

logger = logging.getLogger(__name__)

_POSTGRES = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def add_missed_differences(
    context: AutogenContext,
    metadata: Iterable[MetaData],
    script: MigrationScript,
    *,
    defaults: bool,
) -> None:
    """Add what the databases say of the models' tables, if Alembic sees nothing or guesses.

    `defaults` says whether server defaults are compared here.
    """
    try:
        differences = find_differences(context, metadata)
    except SQLAlchemyError as error:
        logger.warning(
            "defaults, computed columns, CHECKs and indexes were not compared, as the models "
            "can't be made here: %s",
            str(error).partition("\n")[0],
        )
        return
    tables = find_tables(context, metadata)
    upgrade = script.upgrade_ops_list[0]
    _take_out_compared(upgrade.ops, tables)
    comparison = _TableComparison(context, compares_defaults=defaults)
    before: list[MigrateOperation] = []
    for place, table in tables.items():
        ours = [one for one in differences if one.entry.place == place]
        if any(one.entry.kind == "table" and one.made is None for one in ours):
            _add_indexes(context, table, upgrade.ops)
        else:
            drop, create = comparison.compare(table, ours)
            before += drop
            upgrade.ops += create
    upgrade.ops[:0] = before
    script.downgrade_ops_list[-1].ops = list(upgrade.reverse().ops)


def _take_out_compared(steps: list[MigrateOperation], places: Container[Place]) -> None:
    """Remove what Alembic and its plugins say of what is compared here."""
    for step in steps:
        if isinstance(step, ModifyTableOps) and (step.schema, step.table_name.lower()) in places:
            kept = [one for one in step.ops if not _is_compared(one)]
            # Alembic has dropped columns in the order of a set.
            step.ops = sorted(kept, key=_dropped_column)
    steps[:] = [step for step in steps if not isinstance(step, ModifyTableOps) or step.ops]


def _is_compared(step: MigrateOperation) -> bool:
    if isinstance(step, DropConstraintOp):
        return step.constraint_type == "check"
    return isinstance(step, CreateIndexOp | DropIndexOp | CreateCheckConstraintOp)


def _dropped_column(step: MigrateOperation) -> str:
    return step.column_name if isinstance(step, DropColumnOp) else ""


def _add_indexes(context: AutogenContext, table: Table, steps: list[MigrateOperation]) -> None:
    """Make the indexes of a new table after it."""
    indexes = [
        CreateIndexOp.from_index(index)
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if context.run_object_filters(index, index.name, "index", False, None)
    ]
    for number, step in enumerate(steps):
        if isinstance(step, CreateTableOp) and (step.schema, step.table_name) == (
            table.schema,
            table.name,
        ):
            steps[number + 1 : number + 1] = _modify_table(table, indexes)
            return


class _TableComparison:
    """Makes steps of the differences of a table."""

    def __init__(self, context: AutogenContext, *, compares_defaults: bool) -> None:
        assert context.connection is not None
        self._compares_defaults = compares_defaults
        self._inspector = inspect(context.connection)

    def compare(
        self, table: Table, differences: Iterable[Difference]
    ) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
        """Return the steps before Alembic's own and those after them."""
        by_kind: dict[str, list[Difference]] = {}
        for one in sorted(differences, key=lambda one: str(one.entry.name)):
            by_kind.setdefault(one.entry.kind, []).append(one)
        indexes = by_kind.get("index", [])
        drop: list[MigrateOperation] = [
            DropIndex(one.made.name, table, one.made.statement)
            for one in indexes
            if one.made and one.made.name
        ]
        create: list[MigrateOperation] = []
        made_with_column: list[MigrateOperation] = []
        columns = {one.entry.name for one in by_kind.get("column", []) if one.made is None}
        for old, new in self._find_checks(table, by_kind.get("check", [])):
            drop += [DropConstraintOp.from_constraint(old)] if old is not None else []
            if new is not None:
                steps = made_with_column if _is_made_by_type(new, columns) else create
                steps.append(_create_check(table, new))
        create += [
            CreateIndexOp.from_index(find_named(table, "index", one.wanted.name))
            for one in indexes
            if one.wanted
        ]
        replace = [
            step
            for one in by_kind.get("column", [])
            if one.made and one.wanted
            for step in self._replace(find_named(table, "column", one.wanted.name), one)
        ]
        if made_with_column:
            replace.append(SQLiteOps(_modify_table(table, made_with_column)))
        return _modify_table(table, drop), [*replace, *_modify_table(table, create)]

    def _replace(self, column: Column[Any], difference: Difference) -> Iterator[MigrateOperation]:
        facts = {fact: (old, new) for fact, old, new in difference.facts}
        if "computed" in facts:
            yield from self._replace_computed(column)
        elif self._compares_defaults and "default" in facts and "serial" not in facts["default"]:
            default = self._reflect(column).get("default")
            yield from _modify_table(column.table, [_alter_default(column, default)])

    def _replace_computed(self, column: Column[Any]) -> Iterator[MigrateOperation]:
        """Yield what makes a column anew, for its text can't be changed."""
        found = self._reflect(column).get("computed")
        place = (column.table.schema, column.table.name)
        if found is None or column.computed is None:
            yield RefusedOp(
                ("modify_computed", *place, column.name),
                f"{column.table.fullname}.{column.name} becomes a computed column, or is no longer "
                "one: what it holds would be lost; write that revision by hand",
            )
            return
        sql = strip_parentheses(strip_casts(found["sqltext"]))
        computed = Computed(sql, persisted=found.get("persisted"))
        old = Column(column.name, column.type, computed, nullable=column.nullable)
        yield from _modify_table(
            column.table, [DropColumnOp.from_column_and_tablename(*place, old)]
        )
        yield from _modify_table(
            column.table, [AddColumnOp.from_column_and_tablename(*place, column)]
        )

    def _reflect(self, column: Column[Any]) -> Any:
        columns = self._inspector.get_columns(column.table.name, schema=column.table.schema)
        return next(one for one in columns if one["name"].lower() == column.name.lower())

    def _find_checks(
        self, table: Table, differences: Iterable[Difference]
    ) -> Iterator[tuple[CheckConstraint | None, CheckConstraint | None]]:
        """Yield the old and the new of each CHECK that differs and that both engines have."""
        entries = [entry for one in differences for entry in (one.made, one.wanted) if entry]
        names = {str(entry.name).lower() for entry in entries}
        ddl = str(CreateTable(table).compile(dialect=_POSTGRES))
        old = {
            str(found["name"]).lower(): _stub_check(table, str(found["name"]), found["sqltext"])
            for found in self._inspector.get_check_constraints(table.name, schema=table.schema)
        }
        new = {
            str(one.name).lower(): one
            for one in table.constraints
            if isinstance(one, CheckConstraint) and one.name is not None
        }
        for name in sorted(old.keys() | new.keys()):
            before, after = old.get(name), new.get(name)
            # One of an enum is the enum's own where PostgreSQL has a type for it.
            shared = after is None or str(after.name) in ddl
            if name in names and shared:
                yield before, after


def _modify_table(table: Table, steps: Iterable[MigrateOperation]) -> list[MigrateOperation]:
    """Return the steps as one step of their table, or nothing if there are none."""
    steps = list(steps)
    return [ModifyTableOps(table.name, steps, schema=table.schema)] if steps else []


def _alter_default(column: Column[Any], old: str | None) -> AlterColumnOp:
    return AlterColumnOp(
        column.table.name,
        column.name,
        schema=column.table.schema,
        existing_type=column.type,
        existing_nullable=column.nullable,
        existing_server_default=None if old is None else DefaultClause(text(old)),
        modify_server_default=column.server_default,
    )


def _is_made_by_type(check: CheckConstraint, added: Container[str | None]) -> bool:
    """Return whether PostgreSQL makes a CHECK with a new column, as that of an enum."""
    types = [(column.name, column.type) for column in check.columns]
    return any(
        name in added and isinstance(kind, Enum) and str(check.name).endswith(str(kind.name))
        for name, kind in types
    )


def _create_check(table: Table, check: CheckConstraint) -> CreateCheckConstraintOp:
    """Build the step of text: an expression over the table's columns would attach itself to it."""
    sql = check.sqltext.compile(
        dialect=_POSTGRES, compile_kwargs={"literal_binds": True, "include_table": False}
    )
    name = conv(str(check.name))
    return CreateCheckConstraintOp(name, table.name, text(str(sql)), schema=table.schema)


def _stub_check(table: Table, name: str, sql: str) -> CheckConstraint:
    """Build the CHECK that the database has, without what only PostgreSQL can read."""
    check = CheckConstraint(strip_casts(sql), name=conv(name))
    Table(table.name, MetaData(), check, schema=table.schema)
    return check
