"""The Alembic environment: one runner at a time, the right driver, no URL in a configuration file.

Alembic is imported on use: it costs 0.6 s, and a server that only serves never needs it.
"""

import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy import Connection, Engine, MetaData, inspect
from sqlalchemy.exc import DBAPIError, SAWarning
from sqlalchemy.schema import CreateSchema

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..dialects import with_chassis_types
from ..errors import DatabaseUnavailableError
from ..sqlite.pragmas import back_up
from .attempts import Attempt, notice_commits, set_lock_timeouts, try_until_free
from .connect import connect, create_migration_engine
from .console import Progress, end_in_one_line
from .invalid_indexes import describe_invalid_indexes
from .lock import hold_lock
from .options import RECORDER, MigrationEnvironment, MigrationOptions, create_environment
from .rebuild import preserve_rebuilt_tables
from .revisions import (
    UnknownRevisionError,
    UnversionedDatabaseError,
    code_revisions,
    has_any_table,
    is_existing_table,
)

logger = logging.getLogger(__name__)


def run_migrations(
    metadata: MetaData | Sequence[MetaData],
    settings: DatabaseSettings | type[DatabaseSettings],
    **options: Unpack[MigrationOptions],
) -> None:
    """Run what Alembic was asked for; a service's `env.py` calls this and nothing else.

    `settings` is best the class, so that `alembic` can say in one line what is wrong with them.
    `options` are those of Alembic's `context.configure` that `MigrationOptions` names.
    Raises DatabaseSettingsError for another, DatabaseUnavailableError if another runner holds the
    lock for too long.
    """
    if (recorder := RECORDER.get()) is not None:
        recorder.environment = create_environment(metadata, recorder.settings, options)
        return
    from alembic import context

    with end_in_one_line(context.config):
        given = context.config.attributes.get("settings", settings)
        read = given() if isinstance(given, type) else given
        _run(context, read, create_environment(metadata, read, options))


def _run(context: Any, settings: DatabaseSettings, environment: MigrationEnvironment) -> None:
    if context.is_offline_mode():
        _print_sql(context, settings, environment)
    else:
        with create_migration_engine(settings) as engine, hold_lock(engine, settings):
            try:
                try_until_free(settings, partial(_migrate, context, engine, settings, environment))
            finally:
                _warn_of_invalid_indexes(engine, settings.database_migration_target)


def _print_sql(context: Any, settings: DatabaseSettings, environment: MigrationEnvironment) -> None:
    context.configure(
        dialect_name=with_chassis_types(
            settings.database_migration_target.migration()[0]
        ).drivername,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **environment.options,
    )
    with context.begin_transaction():
        if schema := environment.version_table_schema:
            context.execute(CreateSchema(schema, if_not_exists=True))
        context.run_migrations()


def _migrate(
    context: Any,
    engine: Engine,
    settings: DatabaseSettings,
    environment: MigrationEnvironment,
    attempt: Attempt,
) -> None:
    progress = Progress()
    is_sqlite = engine.dialect.name == "sqlite"
    with connect(engine, settings.database_migration_target) as connection:
        if is_sqlite:
            preserve_rebuilt_tables(connection)
        if schema := environment.version_table_schema:
            _create_schema(connection, schema)
        if engine.dialect.name == "postgresql":
            set_lock_timeouts(connection, settings)
            notice_commits(connection, attempt)
        callbacks = (progress.note, *environment.version_callbacks)
        if environment.options["transaction_per_migration"]:
            callbacks = (*callbacks, attempt.end_revision)
        options = {**environment.options, "on_version_apply": callbacks}
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            if settings.database_sqlite_backup_before_migrate and is_sqlite:
                _back_up(context, connection, settings.database_migration_target)
            _run_revisions(context, connection, environment)
            if is_sqlite and settings.database_sqlite_foreign_keys and progress.has_migrated:
                _check_foreign_keys(connection)
            attempt.may_commit = True
        progress.report(context)


def _create_schema(connection: Connection, name: str) -> None:
    """Create a schema that is not there; a role without the right may use one that is."""
    if not inspect(connection).has_schema(name):
        connection.execute(CreateSchema(name, if_not_exists=True))
    connection.commit()


def _run_revisions(context: Any, connection: Connection, environment: MigrationEnvironment) -> None:
    from alembic.util import CommandError

    current = context.get_context().get_current_heads()
    is_unversioned = not current and has_any_table(connection, environment.tables)
    try:
        with warnings.catch_warnings():
            # What Alembic leaves out is compared by the chassis.
            warnings.filterwarnings("ignore", "autogenerate skipping", UserWarning)
            warnings.filterwarnings("ignore", "Computed default on", UserWarning)
            warnings.filterwarnings("ignore", "Skipped unsupported reflection", SAWarning)
            context.run_migrations()
    except CommandError as error:
        state = code_revisions(context.script, environment).judge(connection, current)
        if state.age in ("newer", "foreign"):
            raise UnknownRevisionError(state) from error
        raise
    except DBAPIError as error:
        if is_unversioned and is_existing_table(error):
            raise UnversionedDatabaseError from error
        raise


def _warn_of_invalid_indexes(engine: Engine, target: DatabaseTarget) -> None:
    # Whatever ended the migration is what is to be told.
    with suppress(DatabaseUnavailableError, DBAPIError), connect(engine, target) as connection:
        for fault, cure in describe_invalid_indexes(connection):
            logger.warning("%s; %s", fault, cure)


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
        copy = back_up(connection, Path(target.url.database or ""))
        logger.info("backup before the migration: %s", copy or "none, the database is empty")


def _check_foreign_keys(connection: Connection) -> None:
    from alembic.util import CommandError

    rows = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if rows:
        tables = ", ".join(sorted({row[0] for row in rows}))
        raise CommandError(
            f"the migration leaves rows in {tables} that point to no parent; nothing was changed"
        )
