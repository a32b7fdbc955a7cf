"""The text of a revision: the same whatever the database, and checked before it is written."""

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any

import sqlalchemy
from alembic.autogenerate import render_python_code, renderers
from alembic.operations.ops import MigrateOperation, OpContainer, UpgradeOps
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import dialects
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

_DEFINED = {"sa", "op", *dir(builtins)}


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


@renderers.dispatch_for(SQLiteOps)
def render_sqlite_ops(context: "AutogenContext", container: SQLiteOps) -> str:
    """Return the operations, guarded so that other engines leave them out."""
    body = indent(_render_ops(context, container), "    ")
    return f'if op.get_context().dialect.name == "sqlite":\n{body}'


@renderers.dispatch_for(PortableOps)
def render_portable_ops(context: "AutogenContext", container: PortableOps) -> str:
    """Return the operations as Python, every name in it imported or defined."""
    return mend_text(_render_ops(context, container), context.imports)


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


def mend_text(text: str, imports: set[str]) -> str:
    """Return the text with its names qualified, and add what it needs to the imports.

    Raises alembic.util.CommandError for a name that no import can define.
    """
    tree = ast.parse(text)
    defined = _DEFINED | set(_stored_names([tree, *map(ast.parse, imports)]))
    insertions = list(_enum_flags(tree))
    for node, path in _loaded_names(tree):
        if node.id in defined:
            continue
        if hasattr(sqlalchemy, node.id):
            insertions.append((node.lineno, node.col_offset, "sa."))
        elif node.id in dialects.__all__:
            imports.add(f"from sqlalchemy.dialects import {node.id}")
        elif hasattr(postgresql, node.id):
            imports.add("from sqlalchemy.dialects import postgresql")
            insertions.append((node.lineno, node.col_offset, "postgresql."))
        else:
            imports.add(f"import {_module_of(path)}")
    return _insert(text, insertions)


def _module_of(path: list[str]) -> str:
    """Return the module that a dotted name is in."""
    for length in range(len(path) - 1, 0, -1):
        if (module := ".".join(path[:length])) in sys.modules:
            return module
    raise CommandError(
        f"the revision would name {'.'.join(path)}, which nothing defines, so it was not written: "
        "give the model a type that can be imported, or render it with render_item"
    )


def _stored_names(trees: Iterable[ast.AST]) -> Iterator[str]:
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


def _loaded_names(tree: ast.AST) -> Iterator[tuple[ast.Name, list[str]]]:
    """Yield each name that is read, with the attributes that follow."""
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        path, part = [], node
        while isinstance(part, ast.Attribute):
            inner.add(part.value)
            path.append(part.attr)
            part = part.value
        if node not in inner and isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part, [part.id, *reversed(path)]


def _enum_flags(tree: ast.AST) -> Iterator[tuple[int, int, str]]:
    """Yield where a native enum is to be told that its type is made by the revision itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].lower() == "enum":
            given = {keyword.arg for keyword in node.keywords}
            if not given & {"native_enum", "create_type"} and "name" in given:
                assert node.end_lineno is not None
                assert node.end_col_offset is not None
                yield node.end_lineno, node.end_col_offset - 1, ", create_type=False"


def _insert(text: str, insertions: Iterable[tuple[int, int, str]]) -> str:
    """Insert words; ast counts columns in bytes of UTF-8."""
    lines = [line.encode() for line in text.splitlines()]
    for number, column, word in sorted(insertions, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:column] + word.encode() + line[column:]
    return b"\n".join(lines).decode()
