"""Operations that Alembic has none for, and their text in a revision."""

from collections.abc import Iterable
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any

from alembic.autogenerate import render_python_code, renderers
from alembic.operations.ops import (
    DropIndexOp,
    ExecuteSQLOp,
    MigrateOperation,
    OpContainer,
    UpgradeOps,
)
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Table

from .source_names import complete_names

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext


class PortableOps(OpContainer):
    """Operations that are rendered alike whatever the database they were found on."""


class PostgresOp(MigrateOperation):
    """Statements that only PostgreSQL needs, in their own transactions if they ask for it."""

    def __init__(
        self,
        statements: Iterable[str],
        *,
        autocommit: bool = False,
        difference: tuple[Any, ...] | None = None,
    ) -> None:
        self.statements = list(statements)
        self.autocommit = autocommit
        self.difference = difference

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` reports."""
        return self.difference or ("execute", *self.statements)


@renderers.dispatch_for(PostgresOp)
def render_postgres_op(context: "AutogenContext", step: PostgresOp) -> str:
    """Return the statements, guarded so that other engines leave them out."""
    lines = ['if op.get_context().dialect.name == "postgresql":']
    if step.autocommit:
        lines.append("    with op.get_context().autocommit_block():")
    depth = "        " if step.autocommit else "    "
    return "\n".join([*lines, *(f"{depth}op.execute({text!r})" for text in step.statements)])


class RefusedOp(MigrateOperation):
    """A difference that no revision is written for."""

    def __init__(self, difference: tuple[Any, ...], reason: str) -> None:
        self.difference = difference
        self.reason = reason

    def reverse(self) -> "RefusedOp":
        """Return the same: there is no way back either."""
        return self

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` reports."""
        return self.difference


@renderers.dispatch_for(RefusedOp)
def render_refused_op(context: "AutogenContext", step: RefusedOp) -> str:
    """Raise alembic.util.CommandError: no file is written."""
    raise CommandError(step.reason)


class SQLiteOps(OpContainer):
    """Operations that only SQLite needs."""

    def reverse(self) -> "SQLiteOps":
        """Return what undoes them."""
        return SQLiteOps([step.reverse() for step in reversed(self.ops)])


@renderers.dispatch_for(SQLiteOps)
def render_sqlite_ops(context: "AutogenContext", container: SQLiteOps) -> str:
    """Return the operations, guarded so that other engines leave them out."""
    body = indent(_render_ops(context, container), "    ")
    return f'if op.get_context().dialect.name == "sqlite":\n{body}'


@renderers.dispatch_for(PortableOps)
def render_portable_ops(context: "AutogenContext", container: PortableOps) -> str:
    """Return the operations as Python, every name in it imported or defined."""
    return complete_names(_render_ops(context, container), context.imports)


def _render_ops(context: "AutogenContext", container: OpContainer) -> str:
    render_item = context.opts["render_item"]
    text = render_python_code(
        UpgradeOps(container.ops),
        render_as_batch=True,
        render_item=lambda kind, item, _: render_item(kind, item, context),
        # PostgreSQL's expressions are SQLite's as well; the reverse is not so.
        migration_context=MigrationContext.configure(
            dialect_name="postgresql", dialect_opts={"paramstyle": "named"}
        ),
        user_module_prefix=context.opts["user_module_prefix"],
    )
    lines = dedent(f"    {text}").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("# ###"))


class DropIndex(DropIndexOp):
    """The removal of an index that goes back to the statement that made it."""

    def __init__(self, name: str, table: Table, statement: str) -> None:
        super().__init__(name, table.name, schema=table.schema)
        self._statement = statement

    def reverse(self) -> Any:
        """Return what makes the index again."""
        return ExecuteSQLOp(self._statement)
