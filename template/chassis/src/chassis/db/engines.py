"""The two engines: one that writes in transactions, one that reads without any."""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .address.settings import DatabaseSettings
from .address.urls import DatabaseTarget
from .dialects import with_chassis_types
from .errors import (
    DatabaseSettingsError,
    Failure,
    ReadOnlySessionError,
    classify,
    sqlite_error_name,
    translate_refused_values,
)
from .pool import choose_pool
from .postgres.connect import connect_in_turn, connect_once, servers_of
from .postgres.options import (
    check_connections,
    leave_demoted_servers,
    notice_dead_links,
    refuse_outdated_statements,
)
from .sqlite.files import refuse_replaced_file, replace_broken_connections
from .sqlite.pragmas import (
    accept_decimals,
    configure_connections,
    end_streams_at_checkin,
    free_lock_on_cancellation,
    optimize_on_close,
    prepare_folder,
)
from .statements import observe_statements

READ_ONLY = "chassis_read_only"


def create_database_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Build the engine of write sessions; nothing connects before the first statement.

    On SQLite it has one connection, so that writers queue in the process and in order.
    """
    target = settings.database_target
    if target.backend == "sqlite":
        return _sqlite_engine(settings, target, pool_size=1)
    overflow = settings.database_max_overflow
    size = settings.database_pool_size
    return _pooled_engine(settings, target, pool_size=size, max_overflow=overflow)


def create_read_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Build the engine of read sessions: AUTOCOMMIT, so that a read costs one round trip.

    Raises DatabaseSettingsError for a custom database, which has one engine for both.
    """
    target = settings.database_read_target
    return _read_engine(settings, target, pool_size=settings.read_pool_size)


def create_probe_engine(
    settings: DatabaseSettings, target: DatabaseTarget | None = None, *, pool_size: int = 1
) -> AsyncEngine:
    """Build an engine outside the request pools, for the write database unless told otherwise."""
    target = target or settings.database_target
    # It is asked about one server: no other may answer.
    settings = settings.model_copy(update={"database_read_fallback": False})
    if target.backend == "custom":
        return _pooled_engine(settings, target, pool_size=pool_size)
    return _read_engine(settings, target, pool_size=pool_size)


def _read_engine(
    settings: DatabaseSettings, target: DatabaseTarget, *, pool_size: int
) -> AsyncEngine:
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "execution_options": {READ_ONLY: True},
    }
    match target.backend:
        case "sqlite":
            engine = _sqlite_engine(settings, target, read_only=True, **options)
        case "postgres":
            engine = _pooled_engine(settings, target, read_only=True, **options)
        case "custom":
            raise DatabaseSettingsError(
                "APP_DATABASE_URL: a custom database has one engine; use create_database_engine"
            )
    _translate_refused_writes(engine.sync_engine)
    return engine


def _sqlite_engine(
    settings: DatabaseSettings, target: DatabaseTarget, *, read_only: bool = False, **options: Any
) -> AsyncEngine:
    # Imports the driver, which is not needed where PostgreSQL serves.
    from .sqlite.connection import SQLiteConnection

    prepare_folder(target)
    accept_decimals()
    url, arguments = target.runtime()
    engine = create_async_engine(
        with_chassis_types(url),
        connect_args={"async_creator_fn": SQLiteConnection, **arguments},
        echo=settings.database_echo,
        hide_parameters=True,
        max_overflow=0,
        pool_timeout=settings.database_pool_timeout,
        pool_use_lifo=True,
        poolclass=choose_pool(),
        **options,
    )
    configure_connections(engine.sync_engine, settings, read_only=read_only)
    free_lock_on_cancellation(engine.sync_engine)
    end_streams_at_checkin(engine.sync_engine)
    refuse_replaced_file(engine.sync_engine, Path(url.database or ""))
    replace_broken_connections(engine.sync_engine, read_only=read_only)
    if not read_only:
        optimize_on_close(engine.sync_engine)
    connect_once(engine.sync_engine, target)
    translate_refused_values(engine.sync_engine)
    observe_statements(engine.sync_engine, settings.database_slow_query_seconds)
    return engine


def _pooled_engine(
    settings: DatabaseSettings,
    target: DatabaseTarget,
    *,
    read_only: bool = False,
    max_overflow: int = 0,
    **options: Any,
) -> AsyncEngine:
    engine = create_async_engine(
        with_chassis_types(target.runtime()[0]),
        echo=settings.database_echo,
        hide_parameters=True,
        max_overflow=max_overflow,
        pool_timeout=settings.database_pool_timeout,
        pool_recycle=settings.database_pool_recycle,
        pool_use_lifo=True,
        poolclass=choose_pool(),
        **options,
    )
    if target.backend == "postgres":
        _connect_to_postgres(engine.sync_engine, settings, target, read_only=read_only)
    else:
        connect_once(engine.sync_engine, target)
    translate_refused_values(engine.sync_engine)
    observe_statements(engine.sync_engine, settings.database_slow_query_seconds)
    return engine


def _connect_to_postgres(
    engine: Engine, settings: DatabaseSettings, target: DatabaseTarget, *, read_only: bool
) -> None:
    servers = servers_of(settings, target, read_only=read_only)
    primary = settings.database_target
    if settings.database_read_fallback and target is not primary:
        servers += servers_of(settings, primary, read_only=read_only, stands_in=True)
    connect_in_turn(engine, target, servers)
    notice_dead_links(engine, target)
    refuse_outdated_statements(engine)
    if settings.database_pool_pre_ping:
        check_connections(engine, settings)
    if not read_only:
        leave_demoted_servers(engine)


def _translate_refused_writes(engine: Engine) -> None:
    """Make the server's refusal of textual SQL the error that a read session raises itself."""

    @event.listens_for(engine, "handle_error")
    def handle(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        refused = sqlite_error_name(context.original_exception) == "SQLITE_READONLY"
        if refused or (error is not None and classify(error) is Failure.READ_ONLY):
            raise ReadOnlySessionError from context.original_exception
