"""Differences that Alembic does not look for: defaults, computed texts, CHECKs and indexes.

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
    Index,
    MetaData,
    Table,
    inspect,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable, conv

from .defaults import strip_casts, strip_parentheses
from .index_statements import DropIndex, read_index_statements
from .rendering import RefusedOp
from .twin import Facts, Place, read_twins

logger = logging.getLogger(__name__)

_POSTGRES = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]


def add_missed_differences(
    filters: AutogenContext,
    metadata: Iterable[MetaData],
    script: MigrationScript,
    *,
    defaults: bool,
) -> None:
    """Add what the databases say of the models' tables, where Alembic sees nothing or guesses.

    `defaults` says whether server defaults are compared here.
    """
    assert filters.connection is not None
    tables = {
        (table.schema, table.name.lower()): table
        for one in metadata
        for table in one.sorted_tables
        if filters.run_object_filters(table, table.name, "table", False, None)
    }
    try:
        made, wanted = read_twins(filters.connection, metadata)
    except SQLAlchemyError as error:
        logger.warning(
            "defaults, computed columns, CHECKs and indexes were not compared, as the models "
            "can't be made here: %s",
            str(error).partition("\n")[0],
        )
        return
    comparison = _Comparison(filters, compares_defaults=defaults)
    upgrade = script.upgrade_ops_list[0]
    _take_out_compared(upgrade.ops, tables)
    before: list[MigrateOperation] = []
    for place, table in tables.items():
        if place in made:
            first, last = comparison.compare(table, made[place], wanted[place])
            before += first
            upgrade.ops += last
        else:
            comparison.add_indexes(table, upgrade.ops)
    upgrade.ops[:0] = before
    script.downgrade_ops_list[-1].ops = list(upgrade.reverse().ops)


def _take_out_compared(steps: list[MigrateOperation], places: Container[Place]) -> None:
    """Forget what Alembic and its plugins say of what is compared here."""
    for step in steps:
        if isinstance(step, ModifyTableOps) and (step.schema, step.table_name.lower()) in places:
            kept = [one for one in step.ops if not _is_compared(one)]
            # Alembic has dropped columns in the order of a set.
            step.ops = sorted(kept, key=_dropped_name)
    steps[:] = [step for step in steps if not isinstance(step, ModifyTableOps) or step.ops]


def _is_compared(step: MigrateOperation) -> bool:
    if isinstance(step, DropConstraintOp):
        return step.constraint_type == "check"
    return isinstance(step, CreateIndexOp | DropIndexOp | CreateCheckConstraintOp)


def _dropped_name(step: MigrateOperation) -> str:
    return step.column_name if isinstance(step, DropColumnOp) else ""


class _Comparison:
    """Compares tables, as far as the service's filters include what they have."""

    def __init__(self, filters: AutogenContext, *, compares_defaults: bool) -> None:
        assert filters.connection is not None
        self._filters = filters
        self._compares_defaults = compares_defaults
        self._inspector = inspect(filters.connection)
        self._statements = read_index_statements(filters.connection)

    def add_indexes(self, table: Table, steps: list[MigrateOperation]) -> None:
        """Have the indexes of a new table made after it."""
        for number, step in enumerate(steps):
            if isinstance(step, CreateTableOp) and (step.schema, step.table_name) == (
                table.schema,
                table.name,
            ):
                steps[number + 1 : number + 1] = _modify(table, self._create_indexes(table))
                return

    def compare(
        self, table: Table, made: Facts, wanted: Facts
    ) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
        """Return the steps before Alembic's own and those after them."""
        differing = {key for key in made.keys() | wanted.keys() if made.get(key) != wanted.get(key)}
        indexes = {name for kind, name in differing if kind == "index"}
        drop: list[MigrateOperation] = list(self._drop_indexes(table, indexes))
        create: list[MigrateOperation] = []
        for old, new in self._checks(table, {name for kind, name in differing if kind == "check"}):
            drop += [DropConstraintOp.from_constraint(old)] if old is not None else []
            create += [_create_check(table, new)] if new is not None else []
        separate: list[MigrateOperation] = []
        for column in table.columns:
            key = ("column", column.name.lower())
            if key in differing and key in made and key in wanted:
                separate += self._compare_column(column, made[key], wanted[key])
        create += self._create_indexes(table, indexes)
        return _modify(table, drop), [*separate, *_modify(table, create)]

    def _compare_column(
        self, column: Column[Any], made: dict[str, str], wanted: dict[str, str]
    ) -> Iterator[MigrateOperation]:
        if made.get("computed") != wanted.get("computed"):
            yield from self._replace_computed(column)
        elif self._compares_defaults and _default_differs(made, wanted):
            default = self._reflected(column).get("default")
            yield from _modify(column.table, [_alter_default(column, default)])

    def _replace_computed(self, column: Column[Any]) -> Iterator[MigrateOperation]:
        """Yield what makes a column anew, for its text can't be changed."""
        found = self._reflected(column).get("computed")
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
        yield from _modify(column.table, [DropColumnOp.from_column_and_tablename(*place, old)])
        yield from _modify(column.table, [AddColumnOp.from_column_and_tablename(*place, column)])

    def _reflected(self, column: Column[Any]) -> Any:
        columns = self._inspector.get_columns(column.table.name, schema=column.table.schema)
        return next(one for one in columns if one["name"].lower() == column.name.lower())

    def _checks(
        self, table: Table, names: Container[str]
    ) -> Iterator[tuple[CheckConstraint | None, CheckConstraint | None]]:
        """Yield the old and the new of each CHECK that differs and that both engines have."""
        ddl = str(CreateTable(table).compile(dialect=_POSTGRES))
        old = {
            str(found["name"]).lower(): _stub_check(table, str(found["name"]), found["sqltext"])
            for found in self._inspector.get_check_constraints(table.name, schema=table.schema)
        }
        new = {
            _name_of(one).lower(): one
            for one in table.constraints
            if isinstance(one, CheckConstraint) and one.name is not None
        }
        for name in sorted(old.keys() | new.keys()):
            before, after = old.get(name), new.get(name)
            # One of an enum is the enum's own where PostgreSQL has a type for it.
            shared = after is None or _name_of(after) in ddl
            if name in names and shared and self._includes("check_constraint", before, after):
                yield before, after

    def _drop_indexes(self, table: Table, names: Container[str]) -> Iterator[DropIndex]:
        for (schema, name), (owner, statement) in sorted(
            self._statements.items(), key=lambda item: item[0][1]
        ):
            if (schema, owner) == (table.schema, table.name) and name.lower() in names:
                new = next((one for one in table.indexes if one.name == name), None)
                if self._includes("index", _stub_index(table, name), new):
                    yield DropIndex(name, table.name, schema, statement)

    def _create_indexes(
        self, table: Table, names: Container[str] | None = None
    ) -> Iterator[CreateIndexOp]:
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            chosen = names is None or str(index.name).lower() in names
            if chosen and self._includes("index", None, index):
                yield CreateIndexOp.from_index(index)

    def _includes(self, kind: Any, old: Any, new: Any) -> bool:
        """Return whether the service's filters let a thing be compared."""
        if old is not None:
            parents: Any = {"schema_name": old.table.schema, "table_name": old.table.name}
            if not self._filters.run_name_filters(old.name, kind, parents):
                return False
        item = old if new is None else new
        compared_to = None if new is None else old
        return self._filters.run_object_filters(item, item.name, kind, new is None, compared_to)


def _modify(table: Table, steps: Iterable[MigrateOperation]) -> list[MigrateOperation]:
    steps = list(steps)
    return [ModifyTableOps(table.name, steps, schema=table.schema)] if steps else []


def _default_differs(*facts: dict[str, str]) -> bool:
    defaults = {one.get("default") for one in facts}
    return len(defaults) > 1 and "serial" not in defaults


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


def _name_of(constraint: CheckConstraint) -> str:
    return str(constraint.name)


def _create_check(table: Table, check: CheckConstraint) -> CreateCheckConstraintOp:
    """Build the step of text: an expression over the table's columns would attach itself to it."""
    sql = check.sqltext.compile(
        dialect=_POSTGRES, compile_kwargs={"literal_binds": True, "include_table": False}
    )
    name = conv(_name_of(check))
    return CreateCheckConstraintOp(name, table.name, text(str(sql)), schema=table.schema)


def _stub_check(table: Table, name: str, sql: str) -> CheckConstraint:
    """Build what the database has, in words that the other engine takes, too, where it can be."""
    check = CheckConstraint(strip_casts(sql), name=conv(name))
    Table(table.name, MetaData(), check, schema=table.schema)
    return check


def _stub_index(table: Table, name: str) -> Index:
    index = Index(name, text("1"))
    Table(table.name, MetaData(), index, schema=table.schema)
    return index
