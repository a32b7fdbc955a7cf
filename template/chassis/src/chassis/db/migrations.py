"""The Alembic environment: one runner at a time, the right driver, no URL in a configuration file.

Alembic is imported on use: it costs 0.6 s, and a server that only serves never needs it.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import JSON, Connection, Engine, MetaData, create_engine, pool, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import dialect as postgres_dialect
from sqlalchemy.exc import DatabaseError, DBAPIError

from . import connections, postgres, sqlite
from .base import UTCDateTime
from .errors import HOPELESS, DatabaseSettingsError, DatabaseUnavailableError, sqlstate
from .settings import DatabaseSettings
from .urls import DatabaseTarget

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.config import Config

logger = logging.getLogger(__name__)

_POSTGRES = postgres_dialect()  # type: ignore[no-untyped-call]

# Any number that nothing else in the database uses: ASCII "chassis" as an integer.
LOCK_KEY = int.from_bytes(b"chassis", "big")
LOCK_NOT_AVAILABLE = "55P03"
_POLL_SECONDS = 0.2
_LONGEST_BACKOFF_SECONDS = 2.0
# libpq gives no SQLSTATE of a connection that was refused, only words; nor does SQLite.
_REFUSED = (
    "authentication failed",
    "does not exist",
    "no password supplied",
    "no pg_hba.conf",
    "file is not a database",
)
_POOLER = (
    "APP_ALEMBIC_DATABASE_URL: migrations can't run through a transaction pooler (PgBouncer), "
    "where their lock is lost; set it to the URL of the database itself"
)


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
        "render_item": _render_item,
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
        _engine(settings) as engine,
        _lock(engine, settings),
        _connect(engine, target) as connection,
    ):
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            if settings.database_sqlite_backup_before_migrate and target.backend == "sqlite":
                _back_up(context, connection, target)
            context.run_migrations()
            if target.backend == "sqlite" and settings.database_sqlite_foreign_keys:
                _check_foreign_keys(connection)


def upgrade(package: str, settings: DatabaseSettings, revision: str = "head") -> None:
    """Upgrade the database of a service's package to a revision.

    A database that is newer than the code is left alone, as a rollback needs it.
    Raises alembic.util.CommandError where there is not exactly one head, DatabaseUnavailableError
    where a table is in use for longer than the lock timeout.
    """
    from alembic import command
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    config = alembic_config(package, settings)
    find_head(config)
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        if revision != "head" or not isinstance(error.__cause__, ResolutionError):
            raise
        logger.warning(
            "the database is at revision %s, which this code does not have: it is newer, as after "
            "a rollback, or another service's; nothing was migrated",
            error.__cause__.argument,
        )
    except DBAPIError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        raise DatabaseUnavailableError(
            f"a table was in use for {settings.database_lock_timeout_seconds:g} seconds: migrate "
            "again, or raise APP_DATABASE_LOCK_TIMEOUT_SECONDS"
        ) from error


def downgrade(package: str, settings: DatabaseSettings, revision: str) -> None:
    """Downgrade the database of a service's package to a revision, `base` for an empty one."""
    from alembic import command

    command.downgrade(alembic_config(package, settings), revision)


def alembic_config(package: str, settings: DatabaseSettings) -> "Config":
    """Build Alembic's configuration for the migrations inside an installed package."""
    from alembic.config import Config

    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", f"{package}:migrations")
    config.set_main_option("path_separator", "os")
    return config


def find_head(config: "Config") -> str:
    """Give the revision that the code needs.

    Raises alembic.util.CommandError for none, which Alembic lets pass, and for several.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    heads = ScriptDirectory.from_config(config).get_heads()
    if len(heads) > 1:
        raise CommandError(
            f"the migrations have {len(heads)} heads, {', '.join(sorted(heads))}: join them with "
            "alembic merge heads -m merge"
        )
    if not heads:
        raise CommandError(
            "there is no revision in migrations/versions: make the first with alembic revision "
            "--autogenerate; where there is one, the package was installed without it"
        )
    return heads[0]


def wait_for_database(settings: DatabaseSettings) -> None:
    """Wait until the database answers, `APP_DATABASE_WAIT_SECONDS` at most.

    Raises DatabaseUnavailableError after that, or at once where waiting can't help.
    """
    deadline = time.monotonic() + settings.database_wait_seconds
    pause = _POLL_SECONDS
    with _engine(settings) as engine:
        while True:
            try:
                with _connect(engine, settings.database_migration_target):
                    return
            except DatabaseUnavailableError as error:
                if _is_hopeless(error) or time.monotonic() + pause > deadline:
                    raise
                logger.info("waiting for the database: %s", error)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_BACKOFF_SECONDS)


@contextmanager
def open_connection(settings: DatabaseSettings) -> Iterator[Connection]:
    """Open a connection as migrations do. Raises DatabaseUnavailableError where it can't."""
    with (
        _engine(settings) as engine,
        _connect(engine, settings.database_migration_target) as connection,
    ):
        yield connection


def check_connections(settings: DatabaseSettings) -> str:
    """Connect as migrations do and give the driver's name.

    Raises DatabaseUnavailableError where that fails, DatabaseSettingsError behind a pooler.
    """
    with open_connection(settings) as one, open_connection(settings) as other:
        if one.dialect.name == "postgresql":
            _refuse_noticed_pooler(one, other)
        return one.dialect.driver


@contextmanager
def _engine(settings: DatabaseSettings) -> Iterator[Engine]:
    target = settings.database_migration_target
    _refuse_named_pooler(settings)
    url, arguments = target.migration()
    if target.backend == "sqlite":
        sqlite.prepare_folder(target)
        sqlite.accept_decimals()
    if target.backend == "postgres":
        arguments = postgres.psycopg_arguments(settings, arguments)
    engine = create_engine(
        url,
        connect_args=arguments,
        echo=settings.database_echo,
        hide_parameters=True,
        poolclass=pool.NullPool,
    )
    if target.backend == "sqlite":
        sqlite.configure_connections(engine, settings, migrating=True)
    if target.backend == "postgres":
        connections.ask_for_password(engine, settings, target)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _connect(engine: Engine, target: DatabaseTarget) -> Iterator[Connection]:
    try:
        connection = engine.connect()
    except DatabaseError as error:
        if postgres.is_refusal_by_pooler(str(error.orig)):
            raise DatabaseSettingsError(_POOLER) from error
        raise connections.unavailable(target, error) from error
    with connection:
        yield connection


@contextmanager
def _lock(engine: Engine, settings: DatabaseSettings) -> Iterator[None]:
    """Let one runner in at a time.

    The lock is polled on a connection of its own that is in no transaction: a transaction's lock
    would stop CREATE INDEX CONCURRENTLY, and a blocking wait would deadlock with it. SQLite needs
    none: BEGIN IMMEDIATE queues the runners, and each reads the head inside it.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    target = settings.database_migration_target
    with _connect(engine, target) as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        with _connect(engine, target) as other:
            _refuse_noticed_pooler(connection, other)
        _acquire(connection, settings.database_wait_seconds)
        yield


def _refuse_named_pooler(settings: DatabaseSettings) -> None:
    target = settings.database_migration_target
    shared = target is settings.database_target
    if target.pgbouncer or (shared and postgres.uses_pgbouncer(settings, target)):
        raise DatabaseSettingsError(_POOLER)


def _refuse_noticed_pooler(*pair: Connection) -> None:
    """Tell a transaction pooler by two idle connections that share a server process."""
    for one in pair:
        one.execution_options(isolation_level="AUTOCOMMIT")
    ask = text("SELECT pg_backend_pid()")
    seen = [tuple(one.scalar(ask) for one in pair) for _ in range(3)]
    if len({pid for row in seen for pid in row}) != 2 or len(set(seen)) != 1:
        raise DatabaseSettingsError(_POOLER)


def _acquire(connection: Connection, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
        if time.monotonic() > deadline:
            raise DatabaseUnavailableError(
                "another migration holds the lock; wait for it, or raise APP_DATABASE_WAIT_SECONDS"
            )
        time.sleep(_POLL_SECONDS)


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


def _render_item(kind: str, item: Any, context: "AutogenContext") -> str | Literal[False]:
    """Write chassis types as SQLAlchemy's: a revision must outlive the chassis it was made with."""
    if kind != "type":
        return False
    if isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if type(item) is JSON and isinstance(item.dialect_impl(_POSTGRES), JSONB):
        # Alembic's own rendering of a variant lacks an import.
        context.imports.add("from sqlalchemy.dialects import postgresql")
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    return False


def _is_hopeless(error: DatabaseUnavailableError) -> bool:
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and (
        sqlstate(cause).startswith(HOPELESS) or any(words in str(cause.orig) for words in _REFUSED)
    )
