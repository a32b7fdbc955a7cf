"""PostgreSQL's connections: what the drivers are told, and how a dead connection is noticed."""

import socket
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..errors import READ_ONLY_TRANSACTION, DatabaseUnavailableError
from .hostnames import SocketOption

ENCODING_ADVICE = "move the data to a database WITH ENCODING 'UTF8' TEMPLATE template0"
# What a URL asks of a session, as asked of the server: a read session is read-only on any.
_SERVER_ROLE = {"read-write": "primary", "read-only": "standby"}
# What a pooler keeps for each client.
_POOLED_SETTINGS = ("application_name", "timezone")
_LOST_TYPE = "lookup failed for type"
_IDLE_SINCE = "chassis_idle_since"


def asyncpg_arguments(
    given: dict[str, Any],
    server_settings: dict[str, str],
    *,
    timeout: float,
    read_only: bool,
    pgbouncer: bool,
) -> dict[str, Any]:
    """Complete the driver's arguments; those that a URL has given stay."""
    arguments = {"timeout": timeout, **given}
    wanted = arguments.get("target_session_attrs")
    if read_only and wanted in _SERVER_ROLE:
        arguments["target_session_attrs"] = _SERVER_ROLE[wanted]
    if pgbouncer:
        # A pooled server connection keeps no state of ours: no prepared statement, no setting.
        arguments["statement_cache_size"] = 0
        arguments["prepared_statement_cache_size"] = 0
        # Other names of prepared statements outlive their transaction.
        arguments["prepared_statement_name_func"] = lambda: ""
        server_settings = {name: server_settings[name] for name in _POOLED_SETTINGS}
    told = {name: value for name, value in server_settings.items() if value}
    return arguments | {"server_settings": told | given.get("server_settings", {})}


def psycopg_arguments(
    given: dict[str, Any],
    *,
    application_name: str | None,
    connect_timeout: float,
    lock_timeout: float,
) -> dict[str, Any]:
    """Complete the arguments of a migration's connection: a lock timeout, no statement timeout."""
    defaults = f"-c lock_timeout={milliseconds(lock_timeout)} -c timezone=UTC"
    options = f"{defaults} {given.get('options', '')}"
    arguments: dict[str, Any] = {
        "connect_timeout": max(1, round(connect_timeout)),
        # As asyncpg asks for; else text of a database in SQL_ASCII is bytes.
        "client_encoding": "UTF8",
    }
    if application_name:
        arguments["application_name"] = application_name
    return arguments | given | {"options": options.strip()}


def milliseconds(seconds: float) -> str:
    """Return a duration as PostgreSQL's settings have it."""
    return str(round(seconds * 1000))


def encoding_warning(encoding: str) -> str | None:
    """Return why a database of this encoding is not right for a service; None for UTF8."""
    if encoding == "UTF8":
        return None
    if encoding == "SQL_ASCII":
        return "the database's encoding is SQL_ASCII, which takes bytes that are no text at all"
    return f"the database's encoding is {encoding}, and text that it lacks is refused"


def ping_idle_connections(engine: Engine, *, idle_seconds: float, timeout: float) -> None:
    """Replace a dead connection at check-out: the driver is asked, the server only after idling.

    A ping at every check-out costs a third of the throughput; `is_closed()` costs nothing and
    notices everything but a silent drop, which takes an idle link.
    """

    @event.listens_for(engine, "checkin")
    def note_idle_since(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def replace_dead_connection(
        connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        driver: Any = record.driver_connection
        if driver.is_closed():
            raise DisconnectionError("the server closed the connection")
        idle_since = record.info.get(_IDLE_SINCE)
        if idle_since is not None and time.monotonic() - idle_since >= idle_seconds:
            _ping_server(connection, timeout)


def disconnect_if_demoted(context: ExceptionContext) -> None:
    """Drop all connections when a write is refused: their server has become a standby.

    A managed primary that fails over can keep its connections open, and refuse writes for ever.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_TRANSACTION:
        context.is_disconnect = True


def refuse_outdated_statement(context: ExceptionContext) -> None:
    """Raise DatabaseUnavailableError if a migration changed a type under a prepared statement.

    The driver prepares it anew for the next request; in a transaction it can't be sent again.
    """
    from asyncpg.exceptions import (  # type: ignore[import-untyped]
        InternalServerError,
        InvalidCachedStatementError,
        OutdatedSchemaCacheError,
    )

    cause = context.original_exception.__cause__
    is_outdated = isinstance(cause, InvalidCachedStatementError | OutdatedSchemaCacheError)
    # Never translated: the server's internal errors have no other language.
    lost_its_type = isinstance(cause, InternalServerError) and _LOST_TYPE in str(cause)
    if is_outdated or lost_its_type:
        raise DatabaseUnavailableError(
            "a migration changed the type of a column that a prepared statement has; "
            "it is prepared anew"
        )


def keepalive_options(given: Mapping[str, str]) -> list[SocketOption]:
    """Return what makes the system notice a server that is gone, as libpq's `keepalives` do.

    Without it a request waits for an answer until the system gives up, a quarter of an hour.
    """
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


def _ping_server(connection: Any, timeout: float) -> None:
    try:
        # The simple protocol: one round trip, no prepared statement, no transaction.
        connection.run_async(lambda driver: driver.execute("SELECT 1", timeout=timeout))
    except Exception as error:
        raise InvalidatePoolError("the connection died while it was idle") from error
