"""Run what Alembic was asked for on the service's database, one runner at a time."""

import logging
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError, SAWarning
from sqlalchemy.schema import CreateSchema

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..dialects import with_chassis_types
from ..errors import DatabaseUnavailableError
from ..sqlite.pragmas import back_up
from .attempts import Attempt, retry_while_busy, set_lock_timeouts, track_commits
from .connect import create_migration_engine, open_engine
from .console import Progress
from .invalid_indexes import describe_invalid_indexes
from .lock import hold_lock
from .options import MigrationEnvironment
from .rebuild import preserve_rebuilt_tables
from .revisions import (
    UnknownRevisionError,
    UnversionedDatabaseError,
    code_revisions,
    is_existing_table,
    is_outdated,
    is_unversioned,
)

logger = logging.getLogger(__name__)


def run_command(
    context: Any, settings: DatabaseSettings, environment: MigrationEnvironment
) -> None:
    """Run the command of Alembic's `context`, or print its SQL if it is offline.

    A table in use is waited for in short tries.

    Raise UnknownRevisionError or UnversionedDatabaseError for a database that is not the code's.
    """
    if context.is_offline_mode():
        _print_sql(context, settings, environment)
    else:
        with create_migration_engine(settings) as engine, hold_lock(engine, settings):
            try:
                retry_while_busy(
                    settings, partial(_migrate, context, engine, settings, environment)
                )
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
    with open_engine(engine, settings.database_migration_target) as connection:
        if is_sqlite:
            preserve_rebuilt_tables(connection)
        if schema := environment.version_table_schema:
            _create_schema(connection, schema)
        if engine.dialect.name == "postgresql":
            set_lock_timeouts(connection, settings)
            track_commits(connection, attempt)
        callbacks = (progress.note, *environment.version_callbacks)
        if environment.options["transaction_per_migration"]:
            callbacks = (*callbacks, attempt.end_revision)
        options = {**environment.options, "on_version_apply": callbacks}
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            if settings.database_sqlite_backup_before_migrate and is_sqlite:
                _back_up_file(context, connection, settings.database_migration_target)
            _run_revisions(context, connection, environment)
            if is_sqlite and settings.database_sqlite_foreign_keys and progress.has_migrated:
                _check_foreign_keys(connection)
            attempt.may_commit = True
        _refuse_own_commit(connection)
        progress.report(context)


def _refuse_own_commit(connection: Connection) -> None:
    """Raise alembic.util.CommandError if the transaction was not Alembic's any more at its end."""
    from alembic.util import CommandError

    if connection.in_transaction():
        raise CommandError(
            "a revision ended its transaction itself, by commit() or rollback() of op.get_bind(): "
            "what ran after that is undone, and the revision counts as not run. Leave it out, as "
            "Alembic commits, or use op.get_context().autocommit_block(); see what is there before "
            "it is migrated again"
        )


def _create_schema(connection: Connection, name: str) -> None:
    """Create a schema that is not there; a role without the right may use one that is."""
    if not inspect(connection).has_schema(name):
        connection.execute(CreateSchema(name, if_not_exists=True))
    connection.commit()


def _run_revisions(context: Any, connection: Connection, environment: MigrationEnvironment) -> None:
    from alembic.util import CommandError

    current = context.get_context().get_current_heads()
    has_no_revision = not current and is_unversioned(connection, environment.tables)
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
        if is_outdated(error):
            outdated = UnversionedDatabaseError() if has_no_revision else CommandError(state.advice)
            raise outdated from error
        raise
    except DBAPIError as error:
        if has_no_revision and is_existing_table(error):
            raise UnversionedDatabaseError from error
        raise


def _warn_of_invalid_indexes(engine: Engine, target: DatabaseTarget) -> None:
    # Whatever ended the migration is what is to be told.
    with (
        suppress(DatabaseUnavailableError, DBAPIError),
        open_engine(engine, target) as connection,
    ):
        for fault, cure in describe_invalid_indexes(connection):
            logger.warning("%s; %s", fault, cure)


def _back_up_file(context: Any, connection: Connection, target: DatabaseTarget) -> None:
    """Copy the SQLite file if the command will change its revision."""
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
