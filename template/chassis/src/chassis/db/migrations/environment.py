"""The Alembic environment: one runner at a time, the right driver, no URL in a configuration file.

Alembic is imported on use: it costs 0.6 s, and a server that only serves never needs it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy import Connection, MetaData
from sqlalchemy.schema import CreateSchema

from .. import sqlite
from ..settings import DatabaseSettings
from ..urls import DatabaseTarget
from .connect import connect, create_migration_engine
from .lock import hold_lock
from .options import RECORDER, MigrationEnvironment, MigrationOptions, create_environment
from .rebuild import preserve_rebuilt_tables
from .revisions import UnknownRevisionError, code_revisions
from .schemas import create_schema

logger = logging.getLogger(__name__)


def run_migrations(
    metadata: MetaData | Sequence[MetaData],
    settings: DatabaseSettings,
    **options: Unpack[MigrationOptions],
) -> None:
    """Run what Alembic was asked for; a service's `env.py` calls this and nothing else.

    `options` are those of Alembic's `context.configure` that `MigrationOptions` names.
    Raises DatabaseSettingsError for another, DatabaseUnavailableError if another runner holds the
    lock for too long.
    """
    from alembic import context

    settings = context.config.attributes.get("settings", settings)
    environment = create_environment(metadata, settings, options)
    if record := context.config.attributes.get(RECORDER):
        record(environment)
    elif context.is_offline_mode():
        _print_sql(context, settings, environment)
    else:
        _migrate(context, settings, environment)


def _print_sql(context: Any, settings: DatabaseSettings, environment: MigrationEnvironment) -> None:
    context.configure(
        dialect_name=settings.database_migration_target.migration()[0].get_backend_name(),
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **environment.options,
    )
    with context.begin_transaction():
        if schema := environment.version_table_schema:
            context.execute(CreateSchema(schema, if_not_exists=True))
        context.run_migrations()


def _migrate(context: Any, settings: DatabaseSettings, environment: MigrationEnvironment) -> None:
    from alembic.util import CommandError

    target = settings.database_migration_target
    with (
        create_migration_engine(settings) as engine,
        hold_lock(engine, settings),
        connect(engine, target) as connection,
    ):
        if target.backend == "sqlite":
            preserve_rebuilt_tables(connection)
        if schema := environment.version_table_schema:
            create_schema(connection, schema)
            connection.commit()
        context.configure(connection=connection, **environment.options)
        with context.begin_transaction():
            if settings.database_sqlite_backup_before_migrate and target.backend == "sqlite":
                _back_up(context, connection, target)
            try:
                context.run_migrations()
            except CommandError as error:
                _explain_unknown_revision(context, connection, environment, error)
                raise
            if target.backend == "sqlite" and settings.database_sqlite_foreign_keys:
                _check_foreign_keys(connection)


def _explain_unknown_revision(
    context: Any, connection: Connection, environment: MigrationEnvironment, error: Exception
) -> None:
    current = context.get_context().get_current_heads()
    state = code_revisions(context.script, environment).judge(connection, current)
    if state.age in ("newer", "foreign"):
        raise UnknownRevisionError(state) from error


def _back_up(context: Any, connection: Connection, target: DatabaseTarget) -> None:
    """Copy the file where the command is to change its revision."""
    from alembic.util import to_tuple

    try:
        wanted = set(to_tuple(context.get_revision_argument(), ()))
    except KeyError:
        return
    current = set(context.get_context().get_current_heads())
    known = {script.revision for script in context.script.walk_revisions()}
    if current != wanted and current <= known:
        copy = sqlite.back_up(connection, Path(target.url.database or ""))
        logger.info("backup before the migration: %s", copy or "none, the database is empty")


def _check_foreign_keys(connection: Connection) -> None:
    rows = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if rows:
        tables = ", ".join(sorted({row[0] for row in rows}))
        raise RuntimeError(
            f"the migration leaves rows in {tables} that point to no parent; nothing was changed"
        )
