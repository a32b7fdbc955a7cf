"""How a connection is opened: a fresh password, each server in turn, one error for all failures."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from sqlalchemy import Dialect, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only

from ..address.settings import DatabaseSettings
from ..address.sources import read_password
from ..address.urls import DatabaseTarget
from ..errors import HOPELESS, DatabaseSettingsError, DatabaseUnavailableError
from .hostnames import HostNames, ResolvingLoop, call_in_daemon_thread, is_address
from .options import POOLER_ADVICE, asyncpg_arguments, is_refusal_by_pooler

# How long a server that failed is asked last, and how long one stands in for another.
AWAY_SECONDS = 15.0
_STANDS_IN_SINCE = "chassis_stands_in_since"
# Of the process: engines share their lookups.
_NAMES = HostNames()

Password = Callable[[], str]


@dataclass
class Server:
    """One host of a target, and what asyncpg is called with; the password is asked for each time.

    One that stands in for another gives its connections up after `AWAY_SECONDS`.
    """

    arguments: dict[str, Any]
    password: Password | None = None
    stands_in: bool = False
    failed_at: float = field(default=float("-inf"))
    fetching: Future[str] | None = None


def servers_of(
    settings: DatabaseSettings,
    target: DatabaseTarget,
    *,
    read_only: bool,
    stands_in: bool = False,
) -> list[Server]:
    """Return a server for each host of a PostgreSQL target, in its order.

    asyncpg would try them all within one timeout, so that one silent host hides the others.
    """
    url, given = target.runtime()
    given = asyncpg_arguments(settings, target, given, read_only=read_only)
    arguments = url.translate_connect_args(username="user") | given
    wanted = arguments.pop("target_session_attrs", "any")
    return [
        Server(
            arguments | {"host": host, "port": port, "target_session_attrs": kind},
            password_of(settings, target, host, port),
            stands_in,
        )
        for kind in (("standby", "any") if wanted == "prefer-standby" else (wanted,))
        for host, port in target.hosts
    ]


def connect_in_turn(engine: Engine, target: DatabaseTarget, servers: Sequence[Server]) -> None:
    """Open an engine's connections to the first server that takes one.

    One that failed lately is asked last. A refused password or database ends the search.
    """

    @event.listens_for(engine, "do_connect")
    def connect(
        dialect: Dialect, record: ConnectionPoolEntry, positional: list[Any], named: dict[str, Any]
    ) -> DBAPIConnection:
        errors: list[Exception] = []
        now = time.monotonic()
        for server in sorted(servers, key=lambda one: one.failed_at > now - AWAY_SECONDS):
            try:
                fresh = _resolve_names(server) | _fetch_password(server)
                connection = dialect.connect(**server.arguments | fresh)
            except (DatabaseSettingsError, DatabaseUnavailableError):
                raise
            except Exception as error:
                errors.append(error)
                server.failed_at = time.monotonic()
                if (getattr(error, "sqlstate", None) or "").startswith(HOPELESS):
                    break
            else:
                if server.stands_in:
                    record.info[_STANDS_IN_SINCE] = now
                return connection
        raise unavailable(target, *errors) from errors[-1]

    if any(server.stands_in for server in servers):
        event.listen(engine, "checkout", _give_stand_in_up)


def _give_stand_in_up(
    connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
) -> None:
    if record.info.get(_STANDS_IN_SINCE, float("inf")) < time.monotonic() - AWAY_SECONDS:
        raise DisconnectionError("time to ask again for the server that it stands in for")


def connect_once(engine: Engine, target: DatabaseTarget) -> None:
    """Open an engine's connections as its driver does."""

    @event.listens_for(engine, "do_connect")
    def connect(
        dialect: Dialect, record: ConnectionPoolEntry, positional: list[Any], named: dict[str, Any]
    ) -> DBAPIConnection:
        try:
            return dialect.connect(*positional, **named)
        except Exception as error:
            raise unavailable(target, error) from error


def ask_for_password(engine: Engine, settings: DatabaseSettings, target: DatabaseTarget) -> None:
    """Open a synchronous engine's connections with a password that is asked for each time."""
    password = password_of(settings, target, *target.hosts[0])
    if password is None:
        return

    @event.listens_for(engine, "do_connect")
    def connect(
        dialect: Dialect, record: ConnectionPoolEntry, positional: list[Any], named: dict[str, Any]
    ) -> None:
        named["password"] = password()


def unavailable(target: DatabaseTarget, *errors: Exception) -> DatabaseUnavailableError:
    """Make one error of all that a driver may raise when it connects; each driver has a dozen."""
    causes = [getattr(error, "orig", None) or error for error in errors]
    reasons = [str(cause).strip().partition("\n")[0] or type(cause).__name__ for cause in causes]
    advice = ""
    if any(is_refusal_by_pooler(reason) for reason in reasons):
        advice = f"; {POOLER_ADVICE}"
    listed = "; ".join(dict.fromkeys(reasons))
    return DatabaseUnavailableError(f"can't connect to {target.masked}: {listed}{advice}")


def password_of(
    settings: DatabaseSettings, target: DatabaseTarget, host: str, port: int
) -> Password | None:
    """Return what fetches a password for each connection; None if the password is fixed."""
    file = settings.database_postgres_password_file
    if file is not None and target.chosen_by == "APP_DATABASE_BACKEND":
        return lambda: read_password(file)
    name = settings.database_password_provider
    if name is None or target.url.password is not None:
        return None
    provider = _load(name)
    user = target.url.username or ""

    def fetch() -> str:
        try:
            password = provider(host, port, user)
        except Exception as error:
            raise DatabaseUnavailableError(
                f"APP_DATABASE_PASSWORD_PROVIDER: {name} raised {type(error).__name__}"
            ) from error
        if not isinstance(password, str) or not password:
            raise DatabaseSettingsError(
                f"APP_DATABASE_PASSWORD_PROVIDER: {name} must return a string that is not empty; "
                "it is a plain function of host, port and user"
            )
        return password

    return fetch


def _resolve_names(server: Server) -> dict[str, Any]:
    """Make the driver find its host without the event loop's own threads."""
    return {} if is_address(server.arguments["host"]) else {"loop": ResolvingLoop(_NAMES)}


def _fetch_password(server: Server) -> dict[str, str]:
    """Fetch it in a thread, within the connect timeout: others' requests must not wait for it."""
    if server.password is None:
        return {}
    if server.fetching is None or server.fetching.done():
        server.fetching = call_in_daemon_thread(server.password)
    fetched = asyncio.wrap_future(server.fetching)
    return {"password": await_only(asyncio.wait_for(fetched, server.arguments["timeout"]))}


def _load(name: str) -> Callable[[str, int, str], object]:
    module, _, function = name.partition(":")
    try:
        provider: Callable[[str, int, str], object] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DatabaseSettingsError(
            f"APP_DATABASE_PASSWORD_PROVIDER: {name} can't be imported; name a module on the "
            "path and a function in it, module:function"
        ) from error
    if not callable(provider):
        raise DatabaseSettingsError(f"APP_DATABASE_PASSWORD_PROVIDER: {name} is not a function")
    return provider
