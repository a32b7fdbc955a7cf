"""PostgreSQL's connections: what is sent at start-up, and the check of one that was idle."""

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only

from ..address.settings import DatabaseSettings
from ..address.urls import DatabaseTarget
from ..errors import DatabaseUnavailableError

POOLER_ADVICE = (
    "behind a pooler (PgBouncer) set APP_DATABASE_PGBOUNCER=true, and options not in the URL"
)
ENCODING_ADVICE = "move the data to a database WITH ENCODING 'UTF8' TEMPLATE template0"
# A read session is read-only on every server, which is not what these ask about.
_ASKED_OF_THE_SERVER = {"read-write": "primary", "read-only": "standby"}


def asyncpg_arguments(
    settings: DatabaseSettings,
    target: DatabaseTarget,
    arguments: dict[str, Any],
    *,
    read_only: bool,
) -> dict[str, Any]:
    """Complete the driver's arguments with timeouts, server settings and statement caches."""
    arguments = {"timeout": settings.database_connect_timeout_seconds, **arguments}
    given = arguments.get("server_settings", {})
    if read_only and (wanted := arguments.get("target_session_attrs")) in _ASKED_OF_THE_SERVER:
        arguments["target_session_attrs"] = _ASKED_OF_THE_SERVER[wanted]
    if uses_pgbouncer(settings, target):
        # A pooled server connection keeps no state of ours: no prepared statement, no setting.
        arguments["statement_cache_size"] = 0
        arguments["prepared_statement_cache_size"] = 0
        arguments["prepared_statement_name_func"] = _no_name
        names = {"application_name": settings.database_application_name or ""}
        return arguments | {"server_settings": _filled(names) | given}
    return arguments | {"server_settings": _server_settings(settings, read_only=read_only) | given}


def psycopg_arguments(
    settings: DatabaseSettings, arguments: dict[str, Any], *, lock_timeout_seconds: float
) -> dict[str, Any]:
    """Complete the arguments of a migration's connection: a lock timeout, no statement timeout."""
    timeout = _milliseconds(lock_timeout_seconds)
    options = f"-c lock_timeout={timeout} {arguments.get('options', '')}".strip()
    defaults: dict[str, Any] = {
        "connect_timeout": _whole(settings.database_connect_timeout_seconds),
        # As asyncpg asks for; else text of a database in SQL_ASCII is bytes.
        "client_encoding": "UTF8",
    }
    if settings.database_application_name:
        defaults["application_name"] = settings.database_application_name
    return defaults | arguments | {"options": options}


def encoding_warning(encoding: str) -> str | None:
    """Return why a database of this encoding is not right for a service; None for UTF8."""
    if encoding == "UTF8":
        return None
    if encoding == "SQL_ASCII":
        return "the database's encoding is SQL_ASCII, which takes bytes that are no text at all"
    return f"the database's encoding is {encoding}, and text that it lacks is refused"


def uses_pgbouncer(settings: DatabaseSettings, target: DatabaseTarget) -> bool:
    """Return whether a transaction pooler stands between, by setting or by `pgbouncer=true`."""
    return settings.database_pgbouncer or target.pgbouncer


def check_connections(engine: Engine, settings: DatabaseSettings) -> None:
    """Replace a dead connection at check-out: asked of the driver, pinged only after idling.

    A ping at every check-out costs a third of the throughput; `is_closed()` costs nothing and
    notices everything but a silent drop, which takes an idle link.
    """
    limit = settings.database_ping_idle_seconds

    @event.listens_for(engine, "checkin")
    def checkin(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(
        connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        driver: Any = record.driver_connection
        if driver.is_closed():
            raise DisconnectionError("the server closed the connection")
        idle_since = record.info.get("idle_since")
        if idle_since is not None and time.monotonic() - idle_since >= limit:
            _ping(driver, settings.database_connect_timeout_seconds)


def _no_name() -> str:
    """Name no statement: older releases of asyncpg name each that they prepare."""
    return ""


def is_refusal_by_pooler(message: str) -> bool:
    """Return whether PgBouncer refused what only a server understands."""
    return "unsupported startup parameter" in message


def leave_demoted_servers(engine: Engine) -> None:
    """Drop all connections when a write is refused: the server behind them became a standby.

    A managed primary that fails over can keep its connections open, and refuse writes for ever.
    """

    @event.listens_for(engine, "handle_error")
    def handle(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == "25006":
            context.is_disconnect = True


def refuse_outdated_statements(engine: Engine) -> None:
    """Raise DatabaseUnavailableError if a migration changed a type under a prepared statement.

    The driver prepares it anew for the next request; in a transaction it can't be sent again.
    """
    from asyncpg.exceptions import (  # type: ignore[import-untyped]
        InternalServerError,
        InvalidCachedStatementError,
        OutdatedSchemaCacheError,
    )

    @event.listens_for(engine, "handle_error")
    def raise_unavailable(context: ExceptionContext) -> None:
        cause = context.original_exception.__cause__
        # Never translated: the server's internal errors have no other language.
        is_missing_type = isinstance(
            cause, InternalServerError
        ) and "lookup failed for type" in str(cause)
        if is_missing_type or isinstance(
            cause, InvalidCachedStatementError | OutdatedSchemaCacheError
        ):
            raise DatabaseUnavailableError(
                "a migration changed the type of a column that a prepared statement has; "
                "it is prepared anew"
            )


def notice_dead_links(engine: Engine, target: DatabaseTarget) -> None:
    """Ask the system to notice a peer that is gone without a word, as libpq does.

    Without it a request waits for an answer until the system gives up, a quarter of an hour.
    """
    options = _socket_options(target.parameters)

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        driver: Any = record.driver_connection
        link = driver._transport.get_extra_info("socket")
        if link.family == socket.AF_UNIX:
            return
        # uvloop's own object can't set options.
        with socket.socket(fileno=os.dup(link.fileno())) as duplicate:
            for level, option, value in options:
                duplicate.setsockopt(level, option, value)


def _socket_options(given: Mapping[str, str]) -> list[tuple[int, int, int]]:
    if given.get("keepalives") == "0":
        return []
    idle = int(given.get("keepalives_idle", 30))
    interval = int(given.get("keepalives_interval", 10))
    count = int(given.get("keepalives_count", 3))
    unanswered = int(given.get("tcp_user_timeout", (idle + interval * count) * 1000))
    named = {
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPINTVL": interval,
        "TCP_KEEPCNT": count,
        "TCP_USER_TIMEOUT": unanswered,
    }
    known = [(name, value) for name, value in named.items() if value and hasattr(socket, name)]
    options = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in known]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options]


def _ping(driver: Any, timeout: float) -> None:
    try:
        # The simple protocol: one round trip, no prepared statement, no transaction.
        await_only(driver.execute("SELECT 1", timeout=timeout))
    except Exception as error:
        raise InvalidatePoolError("the connection died while it was idle") from error


def _server_settings(settings: DatabaseSettings, *, read_only: bool) -> dict[str, str]:
    idle = settings.database_idle_in_transaction_timeout_seconds
    sent = {
        "application_name": settings.database_application_name or "",
        "statement_timeout": _milliseconds(settings.database_statement_timeout_seconds),
        "lock_timeout": _milliseconds(settings.database_lock_timeout_seconds),
        "idle_in_transaction_session_timeout": _milliseconds(idle),
        "default_transaction_read_only": "on" if read_only else "",
    }
    return _filled(sent)


def _filled(names: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in names.items() if value}


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _whole(seconds: float) -> int:
    return max(1, round(seconds))
