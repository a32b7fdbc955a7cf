"""The two engines: one that writes in transactions, one that reads without any.

Here settings become values: what each database's modules do needs no settings object.
"""

from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .address.settings import DatabaseSettings
from .address.sources import read_password
from .address.urls import DatabaseTarget
from .dialects import with_chassis_types
from .errors import (
    DatabaseSettingsError,
    Failure,
    ReadOnlySessionError,
    classify,
    sqlite_error_name,
    translate_refused_value,
)
from .pool import choose_pool
from .postgres import connect, options
from .postgres.passwords import FetchPassword, load_password_provider
from .sqlite import files, foreign_keys, pragmas
from .statements import observe_statements

READ_ONLY = "chassis_read_only"


def create_database_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Return the engine of write sessions; nothing connects before the first statement.

    On SQLite it has one connection, so that writers queue in the process and in order.
    """
    target = settings.database_target
    if target.backend == "sqlite":
        return _create_engine(settings, target, pool_size=1)
    overflow = settings.database_max_overflow
    size = settings.database_pool_size
    return _create_engine(settings, target, pool_size=size, max_overflow=overflow)


def create_read_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Return the engine of read sessions: AUTOCOMMIT, so that a read costs one round trip.

    Raise DatabaseSettingsError for a custom database, which has one engine for both.
    """
    target = settings.database_read_target
    if target.backend == "custom":
        raise DatabaseSettingsError(
            "APP_DATABASE_URL: a custom database has one engine; use create_database_engine"
        )
    return _create_engine(settings, target, pool_size=settings.read_pool_size, read_only=True)


def create_probe_engine(
    settings: DatabaseSettings, target: DatabaseTarget | None = None, *, pool_size: int = 1
) -> AsyncEngine:
    """Return an engine outside the request pools, of the write database if no target is given."""
    target = target or settings.database_target
    # A probe is about this target: no fallback may answer.
    settings = settings.model_copy(update={"database_read_fallback": False})
    read_only = target.backend != "custom"
    return _create_engine(settings, target, pool_size=pool_size, read_only=read_only)


def uses_pgbouncer(settings: DatabaseSettings, target: DatabaseTarget) -> bool:
    """Return whether a transaction pooler stands between, by setting or by `pgbouncer=true`."""
    return settings.database_pgbouncer or target.pgbouncer


def find_password_source(
    settings: DatabaseSettings, target: DatabaseTarget, host: str, port: int
) -> FetchPassword | None:
    """Return what fetches the password for each new connection, or None if it is fixed."""
    if target.password_file is not None:
        return partial(read_password, target.password_file)
    provider = settings.database_password_provider
    if provider is None or target.url.password is not None:
        return None
    return load_password_provider(provider, host, port, target.url.username or "")


def set_sqlite_pragmas(
    engine: Engine, settings: DatabaseSettings, *, read_only: bool = False, migrating: bool = False
) -> None:
    """Set the pragmas that the settings ask for on each connection of a SQLite engine."""
    wait = round(settings.database_wait_seconds * 1000) if migrating else 0
    chosen = {
        "journal_mode": settings.database_sqlite_journal_mode,
        "synchronous": settings.database_sqlite_synchronous,
        # A table that a batch migration makes anew takes its child rows with it while keys are on.
        "foreign_keys": settings.database_sqlite_foreign_keys and not migrating,
        "cache_size": settings.database_sqlite_cache_size,
        "mmap_size": settings.database_sqlite_mmap_size,
        "query_only": read_only,
    }
    busy_timeout = max(settings.database_sqlite_busy_timeout, wait)
    pragmas.set_pragmas(engine, chosen, busy_timeout=busy_timeout)


def _create_engine(
    settings: DatabaseSettings,
    target: DatabaseTarget,
    *,
    pool_size: int,
    max_overflow: int = 0,
    read_only: bool = False,
) -> AsyncEngine:
    url, _ = target.runtime()
    chosen: dict[str, Any] = {}
    if read_only:
        chosen |= {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
        chosen |= {"execution_options": {READ_ONLY: True}, "reads_only": True}
    if target.backend == "sqlite":
        # Imports the driver, which is not needed if PostgreSQL serves.
        from .sqlite.connection import choose_connect_arguments

        chosen["connect_args"] = choose_connect_arguments()
    else:
        chosen["pool_recycle"] = settings.database_pool_recycle
    engine = create_async_engine(
        with_chassis_types(url),
        echo=settings.database_echo,
        hide_parameters=True,
        max_overflow=max_overflow,
        pool_size=pool_size,
        pool_timeout=settings.database_pool_timeout,
        pool_use_lifo=True,
        poolclass=choose_pool(),
        **chosen,
    )
    _add_listeners(engine.sync_engine, settings, target, read_only=read_only)
    return engine


def _add_listeners(
    engine: Engine, settings: DatabaseSettings, target: DatabaseTarget, *, read_only: bool
) -> None:
    match target.backend:
        case "sqlite":
            _add_sqlite_listeners(engine, settings, target, read_only=read_only)
        case "postgres":
            _add_postgres_listeners(engine, settings, target, read_only=read_only)
        case "custom":
            connect.translate_connect_errors(engine, target.masked)
    event.listen(engine, "handle_error", translate_refused_value)
    observe_statements(engine, settings.database_slow_query_seconds)
    if read_only:
        event.listen(engine, "handle_error", _translate_refused_write)


def _add_sqlite_listeners(
    engine: Engine, settings: DatabaseSettings, target: DatabaseTarget, *, read_only: bool
) -> None:
    file = Path(target.url.database or "")
    files.prepare_folder(file, target.chosen_by)
    event.listen(engine, "connect", pragmas.remember_handle)
    set_sqlite_pragmas(engine, settings, read_only=read_only)
    event.listen(engine, "invalidate", pragmas.interrupt_statement)
    event.listen(engine, "checkin", pragmas.close_streams)
    files.refuse_replaced_file(engine, file)
    event.listen(engine, "handle_error", files.disconnect_after_failure)
    if not read_only:
        event.listen(engine, "begin", pragmas.begin_with_next_statement)
        event.listen(engine, "handle_error", foreign_keys.name_broken_foreign_key)
        event.listen(engine, "close", pragmas.renew_statistics)
    connect.translate_connect_errors(engine, target.masked)


def _add_postgres_listeners(
    engine: Engine, settings: DatabaseSettings, target: DatabaseTarget, *, read_only: bool
) -> None:
    hosts = _list_hosts(settings, target, read_only=read_only)
    primary = settings.database_target
    if settings.database_read_fallback and target is not primary:
        hosts += _list_hosts(settings, primary, read_only=read_only, is_fallback=True)
    connect.connect_with_failover(engine, hosts, target.masked)
    event.listen(engine, "handle_error", options.refuse_outdated_statement)
    if settings.database_pool_pre_ping:
        options.ping_idle_connections(
            engine,
            idle_seconds=settings.database_ping_idle_seconds,
            timeout=settings.database_connect_timeout_seconds,
        )
    if not read_only:
        event.listen(engine, "handle_error", options.disconnect_if_demoted)


def _list_hosts(
    settings: DatabaseSettings,
    target: DatabaseTarget,
    *,
    read_only: bool,
    is_fallback: bool = False,
) -> list[connect.FailoverHost]:
    url, given = target.runtime()
    arguments = url.translate_connect_args(username="user") | options.asyncpg_arguments(
        given,
        _server_settings(settings, read_only=read_only),
        timeout=settings.database_connect_timeout_seconds,
        read_only=read_only,
        pgbouncer=uses_pgbouncer(settings, target),
    )
    return [
        connect.FailoverHost(
            arguments | {"host": host, "port": port},
            find_password_source(settings, target, host, port),
            is_fallback,
            options.keepalive_options(target.parameters),
        )
        for arguments in connect.expand_session_attributes(arguments)
        for host, port in target.hosts
    ]


def _server_settings(settings: DatabaseSettings, *, read_only: bool) -> dict[str, str]:
    idle = settings.database_idle_in_transaction_timeout_seconds
    return {
        "application_name": settings.database_application_name or "",
        # As SQLite has it: the day of a moment is the same on both, wherever the server stands.
        "timezone": "UTC",
        "statement_timeout": options.milliseconds(settings.database_statement_timeout_seconds),
        "lock_timeout": options.milliseconds(settings.database_lock_timeout_seconds),
        "idle_in_transaction_session_timeout": options.milliseconds(idle),
        "default_transaction_read_only": "on" if read_only else "",
    }


def _translate_refused_write(context: ExceptionContext) -> None:
    """Make the server's refusal of textual SQL the error that a read session raises itself."""
    error = context.sqlalchemy_exception
    refused = sqlite_error_name(context.original_exception) == "SQLITE_READONLY"
    if refused or (error is not None and classify(error) is Failure.READ_ONLY):
        raise ReadOnlySessionError from context.original_exception
