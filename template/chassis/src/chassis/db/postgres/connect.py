"""How PostgreSQL is connected to: each host in turn, and one error for all failures of a driver."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Dialect, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ..errors import PERMANENT_SQLSTATES, DatabaseSettingsError, DatabaseUnavailableError
from .hostnames import HostNames, ResolvingLoop, SocketOption, call_in_daemon_thread
from .passwords import FetchPassword

POOLER_ADVICE = (
    "behind a pooler (PgBouncer) set APP_DATABASE_PGBOUNCER=true, and options not in the URL"
)
# How long a host that failed is tried last, and how long a fallback is used instead of it.
SKIP_FAILED_HOST_SECONDS = 15.0

_FALLBACK_SINCE = "chassis_fallback_since"
# One for the process: engines share their lookups.
_HOST_NAMES = HostNames()


@dataclass
class FailoverHost:
    """A host that connections may go to: what asyncpg is called with, and when it last failed.

    Connections to a fallback are given up after `SKIP_FAILED_HOST_SECONDS`.
    """

    arguments: dict[str, Any]
    fetch_password: FetchPassword | None = None
    is_fallback: bool = False
    socket_options: Sequence[SocketOption] = ()
    failed_at: float = float("-inf")
    password: Future[str] | None = None

    def connect(self, dialect: Dialect) -> DBAPIConnection:
        """Connect with the password of the moment, without the event loop's own name lookups."""
        fresh: dict[str, Any] = {"loop": ResolvingLoop(_HOST_NAMES, self.socket_options)}
        if self.fetch_password is not None:
            fresh["password"] = partial(self._wait_for_password, self.fetch_password)
        return dialect.connect(**self.arguments | fresh)

    async def _wait_for_password(self, fetch: FetchPassword) -> str:
        """Fetch the password in a thread; asyncpg waits for it within the connect timeout."""
        if self.password is None or self.password.done():
            self.password = call_in_daemon_thread(fetch)
        return await asyncio.wrap_future(self.password)


def expand_session_attributes(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of each round through the hosts: `prefer-standby` makes two."""
    wanted = arguments.get("target_session_attrs", "any")
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    return [arguments | {"target_session_attrs": kind} for kind in rounds]


def connect_with_failover(engine: Engine, hosts: Sequence[FailoverHost], masked_url: str) -> None:
    """Open an engine's connections to the first host that takes one.

    asyncpg would try them all within one timeout, so that a silent host hides those after it. A
    host that failed lately is tried last. A refused password or database ends the search.
    """

    @event.listens_for(engine, "do_connect")
    def connect_to_first_host(
        dialect: Dialect, record: ConnectionPoolEntry, positional: list[Any], named: dict[str, Any]
    ) -> DBAPIConnection:
        errors: list[Exception] = []
        now = time.monotonic()
        for host in sorted(hosts, key=lambda host: host.failed_at > now - SKIP_FAILED_HOST_SECONDS):
            try:
                connection = host.connect(dialect)
            except (DatabaseSettingsError, DatabaseUnavailableError):
                raise
            except Exception as error:
                errors.append(error)
                host.failed_at = time.monotonic()
                if (getattr(error, "sqlstate", None) or "").startswith(PERMANENT_SQLSTATES):
                    break
            else:
                if host.is_fallback:
                    record.info[_FALLBACK_SINCE] = now
                return connection
        raise connection_error(masked_url, errors) from errors[-1]

    if any(host.is_fallback for host in hosts):
        event.listen(engine, "checkout", _leave_fallback)


def _leave_fallback(
    connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
) -> None:
    since = record.info.get(_FALLBACK_SINCE, float("inf"))
    if since < time.monotonic() - SKIP_FAILED_HOST_SECONDS:
        raise DisconnectionError("time to try the host again that this one is the fallback of")


def translate_connect_errors(engine: Engine, masked_url: str) -> None:
    """Raise DatabaseUnavailableError for whatever a driver raises when it connects."""

    @event.listens_for(engine, "do_connect")
    def connect_or_raise_unavailable(
        dialect: Dialect, record: ConnectionPoolEntry, positional: list[Any], named: dict[str, Any]
    ) -> DBAPIConnection:
        try:
            return dialect.connect(*positional, **named)
        except Exception as error:
            raise connection_error(masked_url, [error]) from error


def fetch_password_on_connect(engine: Engine, fetch_password: FetchPassword) -> None:
    """Open a synchronous engine's connections with a password that is fetched for each."""

    @event.listens_for(engine, "do_connect")
    def set_password(
        dialect: Dialect, record: ConnectionPoolEntry, positional: list[Any], named: dict[str, Any]
    ) -> None:
        named["password"] = fetch_password()


def connection_error(masked_url: str, errors: Iterable[Exception]) -> DatabaseUnavailableError:
    """Return one error for all that a driver may raise when it connects; each has a dozen."""
    causes = [getattr(error, "orig", None) or error for error in errors]
    reasons = [str(cause).strip().partition("\n")[0] or type(cause).__name__ for cause in causes]
    advice = f"; {POOLER_ADVICE}" if any(map(is_refusal_by_pooler, reasons)) else ""
    listed = "; ".join(dict.fromkeys(reasons))
    return DatabaseUnavailableError(f"can't connect to {masked_url}: {listed}{advice}")


def is_refusal_by_pooler(message: str) -> bool:
    """Return whether PgBouncer refused what only a server understands."""
    return "unsupported startup parameter" in message
