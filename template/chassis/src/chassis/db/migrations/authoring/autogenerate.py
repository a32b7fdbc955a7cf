"""The hooks of autogenerate: they make one text that is right on SQLite and on PostgreSQL."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.operations.ops import CreateTableOp, ExecuteSQLOp, MigrationScript
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, String, inspect
from sqlalchemy.types import TypeEngine

from ..scripts import find_head
from .advice import advise
from .comparison import add_missed_differences
from .enums import add_enum_steps, is_known_enum, read_history
from .foreign_keys import add_foreign_keys_last, drop_tables_last
from .operations import PortableOps
from .portable_types import DIALECTS, ItemRenderer, generalise_types, is_autoincrement

logger = logging.getLogger(__name__)


class Autogenerate:
    """The hooks of one run; those that a service gave to `run_migrations` are called as well."""

    def __init__(self, metadata: Sequence[MetaData], given: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self._given = given
        self._renderer = ItemRenderer()

    def compare_type(
        self,
        context: MigrationContext,
        found: Column[Any],
        wanted: Column[Any],
        *types: TypeEngine[Any],
    ) -> bool | None:
        """Return False for what only looks like another type on SQLite, None to have it compared.

        SQLite counts a key only if it is an INTEGER, whatever the model says, and has no enums.
        """
        if context.dialect.name != "sqlite":
            return None
        if isinstance(found.type, Integer) and is_autoincrement(wanted):
            return False
        is_enum = isinstance(found.type, String) and is_known_enum(context, wanted.type)
        return False if is_enum else None

    def render_item(self, kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
        """Return the text of an item, or False for what Alembic renders itself."""
        given = self._given.get("render_item")
        text: str | Literal[False] = given(kind, item, context) if given else False
        return self._renderer.render(kind, item) if text is False else text

    def process_directives(
        self, context: MigrationContext, revision: Any, scripts: list[MigrationScript]
    ) -> None:
        """Complete what Alembic found, and have it rendered without regard to the database.

        Raise alembic.util.CommandError, before a file is written, for a name that nothing defines,
        and if the command `check` finds no revision to compare the models with.
        """
        is_comparison = _is_comparison(context)
        if is_comparison and context.config and _is_check_command(context.config):
            find_head(context.config)
        if is_comparison:
            compares_defaults = self._given.get("compare_server_default", True) is True
            filters = AutogenContext(context, autogenerate=False)
            for script in scripts:
                add_missed_differences(filters, self._metadata, script, defaults=compares_defaults)
        for script in scripts:
            _add_missing_schemas(context, script)
        if given := self._given.get("process_revision_directives"):
            given(context, revision, scripts)
        if is_comparison:
            for script in scripts:
                if context.config and _is_revision_command(context.config):
                    for line in advise(script):
                        logger.warning("%s", line)
                self._make_portable(context, script)

    def _make_portable(self, context: MigrationContext, script: MigrationScript) -> None:
        drop_tables_last(script)
        add_foreign_keys_last(script)
        for downgrade in script.downgrade_ops_list:
            generalise_types(downgrade.ops, read_history(context))
        add_enum_steps(script, self._metadata, context)
        for steps in (*script.upgrade_ops_list, *script.downgrade_ops_list):
            if steps.ops:
                steps.ops = [PortableOps(steps.ops)]


def _is_comparison(context: MigrationContext) -> bool:
    """Return whether the models are compared, on an engine that the chassis knows.

    A command from Python has no options.
    """
    options = context.config.cmd_opts if context.config else None
    return context.dialect.name in DIALECTS and bool(getattr(options, "autogenerate", True))


def _is_check_command(config: Config) -> bool:
    """Return whether people called `alembic check`: `revision` has an option that it has not."""
    return config.cmd_opts is not None and not hasattr(config.cmd_opts, "autogenerate")


def _is_revision_command(config: Config) -> bool:
    """Return whether people called `alembic revision`."""
    return hasattr(config.cmd_opts, "autogenerate")


def _add_missing_schemas(context: MigrationContext, script: MigrationScript) -> None:
    """Make the schemas of new tables that the database does not have.

    A downgrade keeps them: others may have put something in.
    """
    for upgrade in script.upgrade_ops_list:
        made = [step for step in upgrade.ops if isinstance(step, CreateTableOp)]
        named = {step.schema for step in made if step.schema}
        if named:
            assert context.connection is not None
            missing = named.difference(inspect(context.connection).get_schema_names())
            quote = context.dialect.identifier_preparer.quote_schema
            upgrade.ops[:0] = [
                ExecuteSQLOp(f"CREATE SCHEMA IF NOT EXISTS {quote(name)}")
                for name in sorted(missing)
            ]
