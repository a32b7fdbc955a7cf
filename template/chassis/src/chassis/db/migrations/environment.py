"""The Alembic environment: one runner at a time, the right driver, no URL in a configuration file.

Alembic is imported on use: it costs 0.6 s, and a server that only serves never needs it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData

from .. import sqlite
from ..settings import DatabaseSettings
from ..urls import DatabaseTarget
from .autogenerate import render_item
from .connect import connect, create_migration_engine
from .lock import hold_lock
from .rebuild import preserve_rebuilt_tables

logger = logging.getLogger(__name__)


def run_migrations(metadata: MetaData | Sequence[MetaData], settings: DatabaseSettings) -> None:
    """Run what Alembic was asked for; a service's `env.py` calls this and nothing else.

    Raises DatabaseUnavailableError where another runner holds the lock for too long.
    """
    from alembic import context

    settings = context.config.attributes.get("settings", settings)
    target = settings.database_migration_target
    options: dict[str, Any] = {
        "target_metadata": metadata,
        "render_as_batch": target.backend == "sqlite",
        "render_item": render_item,
    }
    if target.backend == "sqlite":
        options["transactional_ddl"] = True
    if context.is_offline_mode():
        context.configure(
            dialect_name=target.migration()[0].get_backend_name(),
            literal_binds=True,
            dialect_opts={"paramstyle": "named"},
            **options,
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    with (
        create_migration_engine(settings) as engine,
        hold_lock(engine, settings),
        connect(engine, target) as connection,
    ):
        if target.backend == "sqlite":
            preserve_rebuilt_tables(connection)
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            if settings.database_sqlite_backup_before_migrate and target.backend == "sqlite":
                _back_up(context, connection, target)
            context.run_migrations()
            if target.backend == "sqlite" and settings.database_sqlite_foreign_keys:
                _check_foreign_keys(connection)


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
