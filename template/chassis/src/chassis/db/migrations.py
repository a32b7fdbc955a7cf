"""The Alembic environment: one runner at a time, the right driver, no URL in a configuration file.

Alembic is imported on use: it costs 0.6 s, and a server that only serves never needs it.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, Engine, MetaData, create_engine, pool, text
from sqlalchemy.exc import DBAPIError, OperationalError

from . import connections, postgres, sqlite
from .base import UTCDateTime
from .errors import HOPELESS, DatabaseSettingsError, DatabaseUnavailableError, sqlstate
from .settings import DatabaseSettings
from .urls import DatabaseTarget

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.config import Config

logger = logging.getLogger(__name__)

# Any number that nothing else in the database uses: ASCII "chassis" as an integer.
LOCK_KEY = int.from_bytes(b"chassis", "big")
_POLL_SECONDS = 0.2
_LONGEST_BACKOFF_SECONDS = 2.0
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
            context.run_migrations()
            if target.backend == "sqlite":
                _check_foreign_keys(connection)


def upgrade(package: str, settings: DatabaseSettings, revision: str = "head") -> None:
    """Upgrade the database of a service's package to a revision."""
    from alembic import command

    command.upgrade(alembic_config(package, settings), revision)


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
    except OperationalError as error:
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


def _check_foreign_keys(connection: Connection) -> None:
    rows = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if rows:
        tables = ", ".join(sorted({row[0] for row in rows}))
        raise RuntimeError(
            f"the migration leaves rows in {tables} that point to no parent; nothing was changed"
        )


def _render_item(kind: str, item: Any, context: "AutogenContext") -> str | Literal[False]:
    """Write chassis types as SQLAlchemy's: a revision must outlive the chassis it was made with."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def _is_hopeless(error: DatabaseUnavailableError) -> bool:
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and sqlstate(cause).startswith(HOPELESS)
