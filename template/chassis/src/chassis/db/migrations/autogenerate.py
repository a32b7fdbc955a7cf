"""The hooks of autogenerate: they make one text that is right on SQLite and on PostgreSQL.

Alembic is imported on use: whoever only serves reads these hooks too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy
from sqlalchemy import JSON, Column, Integer, MetaData, String
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import CompileError
from sqlalchemy.schema import DefaultClause
from sqlalchemy.types import Boolean, TypeDecorator, TypeEngine

from .defaults import render_default

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import MigrationScript
    from alembic.runtime.migration import MigrationContext

_DIALECTS = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.dialect(),  # type: ignore[no-untyped-call]
}


def find_missed_differences(
    metadata: Sequence[MetaData],
    defaults: bool,
    context: "MigrationContext",
    revision: object,
    directives: "list[MigrationScript]",
) -> None:
    """Add what Alembic does not compare, or not on this database."""
    from alembic.autogenerate.api import AutogenContext

    from .comparison import add_missed_differences

    if _is_autogenerate(context):
        for script in directives:
            filters = AutogenContext(context, autogenerate=False)
            add_missed_differences(filters, metadata, script, defaults=defaults)


def complete_revisions(
    metadata: Sequence[MetaData],
    context: "MigrationContext",
    revision: object,
    directives: "list[MigrationScript]",
) -> None:
    """Complete what Alembic found, and have it rendered without regard to the database.

    Raises alembic.util.CommandError, before a file is written, for a name that nothing defines.
    """
    from .enums import add_enum_steps, read_history
    from .foreign_keys import add_foreign_keys_last
    from .reflected import generalise_types
    from .rendering import PortableOps

    if not _is_autogenerate(context):
        return
    for script in directives:
        add_foreign_keys_last(script)
        for downgrade in script.downgrade_ops_list:
            generalise_types(downgrade.ops, read_history(context))
        add_enum_steps(script, metadata, context)
        for steps in (*script.upgrade_ops_list, *script.downgrade_ops_list):
            if steps.ops:
                steps.ops = [PortableOps(steps.ops)]


def _is_autogenerate(context: "MigrationContext") -> bool:
    """Return whether the models were compared, on an engine that is known.

    A command from Python has no options.
    """
    options = context.config.cmd_opts if context.config else None
    return context.dialect.name in _DIALECTS and bool(getattr(options, "autogenerate", True))


def compare_type(
    context: "MigrationContext", found: Column[Any], wanted: Column[Any], *types: TypeEngine[Any]
) -> bool | None:
    """Return False for what only looks like another type on SQLite, None to let Alembic compare.

    SQLite counts a key only if it is an INTEGER, whatever the model says, and has no enums.
    """
    from .enums import is_known_enum

    if context.dialect.name != "sqlite":
        return None
    if isinstance(found.type, Integer) and _is_autoincrement(wanted):
        return False
    return False if isinstance(found.type, String) and is_known_enum(context, wanted.type) else None


class ItemRenderer:
    """Alembic's `render_item`: types of the service as plain ones, defaults for both engines."""

    def __init__(self) -> None:
        self._type: TypeEngine[Any] | None = None
        self._is_autoincrement = False

    def __call__(self, kind: str, item: Any, context: "AutogenContext") -> str | Literal[False]:
        """Return the text of an item, or False for what Alembic renders itself."""
        match kind:
            case "column":
                self._type = item.type
                self._is_autoincrement = _is_autoincrement(item)
            case "type":
                is_key = self._is_autoincrement and item is self._type
                self._type = item
                return _render_key(item) if is_key else _render_type(item)
            case "server_default" if isinstance(item, str | DefaultClause):
                return render_default(item, is_boolean=isinstance(self._type, Boolean))
        return False


def _is_autoincrement(column: Column[Any]) -> bool:
    return column.table is not None and column is column.table.autoincrement_column


def _render_key(item: TypeEngine[Any]) -> str | Literal[False]:
    """SQLite counts a key only if it is an INTEGER, whose values have 64 bits there."""
    if isinstance(item, Integer) and _ddl(item, "sqlite") != "INTEGER":
        return f'{_render_plain(item)}.with_variant(sa.Integer(), "sqlite")'
    return _render_type(item)


def _render_type(item: TypeEngine[Any]) -> str | Literal[False]:
    if type(item) is JSON and _ddl(item, "postgresql") == "JSONB":
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    if isinstance(item, TypeDecorator) and not _is_public(type(item)):
        return _render_decorator(item)
    return False


def _render_decorator(item: TypeDecorator[Any]) -> str:
    """Return the types that a decorator stands for: a revision must outlive the code beside it."""
    plain = item.load_dialect_impl(DefaultDialect())
    text = _render_type(plain) or _render_plain(plain)
    for name, dialect in _DIALECTS.items():
        if _ddl(item, name) != _ddl(plain, name):
            variant = item.dialect_impl(dialect)
            if isinstance(variant, TypeDecorator):
                variant = variant.load_dialect_impl(dialect)
            text += f".with_variant({_render_plain(variant)}, {name!r})"
    return text


def _render_plain(item: TypeEngine[Any]) -> str:
    public = next(kind for kind in type(item).__mro__ if _is_public(kind))
    module = "postgresql" if public.__module__.startswith("sqlalchemy.dialects") else "sa"
    return f"{module}.{(item if public is type(item) else item.adapt(public))!r}"


def _is_public(kind: type) -> bool:
    return any(getattr(module, kind.__name__, None) is kind for module in (sqlalchemy, postgresql))


def _ddl(item: TypeEngine[Any], dialect: str) -> str | None:
    try:
        return item.compile(dialect=_DIALECTS[dialect])
    except CompileError:
        return None
