"""Database URLs: one libpq-style URL in, what each driver understands out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote, unquote, urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from ..errors import DatabaseSettingsError
from .hosts import ENCODE_ADVICE, Host, bracket_ipv6, is_socket, merge_hosts
from .parameters import (
    DSN_PARAMETERS,
    SESSION_PARAMETERS,
    TLS_PARAMETERS,
    check_values,
    normalise_parameters,
)
from .quotes import QUOTES, TYPOGRAPHIC_QUOTES, is_quoted
from .tls import check_tls, resolve_tls

BackendName = Literal["sqlite", "postgres"]
Backend = Literal[BackendName, "custom"]

_POSTGRES_DRIVERS = ("", "asyncpg", "psycopg", "psycopg2", "psycopg_async", "psycopg2cffi")
_DRIVERS = {
    "postgres": _POSTGRES_DRIVERS,
    "postgresql": _POSTGRES_DRIVERS,
    "sqlite": ("", "aiosqlite", "pysqlite"),
}


@dataclass(frozen=True)
class DatabaseTarget:
    """One database: where it is, how to reach it, and the variable that chose it.

    `url` carries no driver and no query, and no host if there are several, or if it is a socket;
    a `custom` URL is kept as it was written.
    `parameters` are libpq's, set by `parameters_variable`; `password_file` is read at each connect.
    """

    backend: Backend
    url: URL = field(repr=False)
    chosen_by: str
    hosts: tuple[Host, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    parameters_variable: str = ""
    password_file: Path | None = None
    pgbouncer: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def masked(self) -> str:
        """The target for messages and logs: no password, no parameters."""
        match self.backend:
            case "sqlite":
                return f"sqlite:///{self.url.database}"
            case "postgres":
                user = f"{self.url.username}@" if self.url.username else ""
                hosts = ",".join(f"{bracket_ipv6(host)}:{port}" for host, port in self.hosts)
                return f"postgresql://{user}{hosts}/{self.url.database or ''}"
            case "custom":
                return self.url.set(query={}).render_as_string(hide_password=True)

    def runtime(self) -> tuple[URL, dict[str, Any]]:
        """Return the URL and the connect arguments of the application's asynchronous driver."""
        match self.backend:
            case "sqlite":
                return self.url.set(drivername="sqlite+aiosqlite"), {}
            case "postgres":
                return self.url.set(drivername="postgresql+asyncpg"), self._asyncpg_arguments()
            case "custom":
                return self.url, {}

    def migration(self) -> tuple[URL, dict[str, Any]]:
        """Return the URL and the connect arguments of Alembic's synchronous driver."""
        if self.backend != "postgres":
            return self.url, {}
        arguments: dict[str, Any] = self._resolve_parameters()
        if self.url.host is None:
            arguments["host"] = ",".join(host for host, _ in self.hosts)
            arguments["port"] = ",".join(str(port) for _, port in self.hosts)
        return self.url.set(drivername="postgresql+psycopg"), arguments

    def _asyncpg_arguments(self) -> dict[str, Any]:
        given = self._resolve_parameters()
        arguments: dict[str, Any] = {}
        if self.url.host is None:
            arguments["host"] = [host for host, _ in self.hosts]
            arguments["port"] = [port for _, port in self.hosts]
        if "target_session_attrs" in given:
            arguments["target_session_attrs"] = given["target_session_attrs"]
        if given.pop("sslnegotiation", "postgres") == "direct":
            arguments["direct_tls"] = True
        if named := {name: given[name] for name in DSN_PARAMETERS if name in given}:
            arguments["dsn"] = f"postgresql://?{urlencode(named, quote_via=quote)}"
        if settings := {name: given[name] for name in SESSION_PARAMETERS if name in given}:
            arguments["server_settings"] = settings
        if "connect_timeout" in given:
            # libpq: zero waits for ever
            arguments["timeout"] = float(given["connect_timeout"]) or None
        return arguments

    def _resolve_parameters(self) -> dict[str, str]:
        if all(is_socket(host) for host, _ in self.hosts):
            # There is no TLS on a socket, and libpq looks at none of its parameters.
            given = self.parameters.items()
            return {name: value for name, value in given if name not in TLS_PARAMETERS}
        return resolve_tls(self.parameters, self.parameters_variable)


def parse_url(
    text: str, variable: str, defaults: Mapping[str, str] = MappingProxyType({})
) -> DatabaseTarget:
    """Return the target of a database URL; the dialect in it decides the backend.

    `defaults` are libpq parameters for PostgreSQL; those in the URL win. Raise
    DatabaseSettingsError that names `variable` and what to write, never the text itself.
    """
    text = text.strip()
    _check_text(text, variable)
    scheme, found, rest = text.partition("://")
    dialect, _, driver = scheme.lower().partition("+")
    if not found or not dialect:
        raise DatabaseSettingsError(
            f"{variable}: not a URL; write postgresql://user:password@host:5432/name "
            "or sqlite:///data/app.db"
        )
    if driver not in _DRIVERS.get(dialect, (driver,)):
        raise DatabaseSettingsError(
            f"{variable}: leave the driver out of the URL (postgresql://… or sqlite:///…); "
            "the chassis chooses it"
        )
    match dialect:
        case "postgres" | "postgresql":
            return _parse_postgres(rest, variable, defaults)
        case "sqlite":
            return _parse_sqlite(rest, variable)
        case _:
            return _parse_custom(text, variable)


def sqlite_target(path: str, variable: str) -> DatabaseTarget:
    """Return the target of a SQLite file. Raise DatabaseSettingsError if the path is no file's."""
    _check_text(path, variable)
    if path.startswith("file:") and not path.startswith("file::memory:"):
        raise DatabaseSettingsError(
            f"{variable}: a SQLite file URI (file:…) can't be used; name the file itself: "
            "sqlite:///data/app.db, or APP_DATABASE_SQLITE_PATH=data/app.db"
        )
    if re.match(r"~|.*\$|[\w+]{2,}:/", path):
        raise DatabaseSettingsError(
            f"{variable}: write the whole path of a file, without ~, $ and a scheme; "
            "a URL is for APP_DATABASE_URL"
        )
    if path in ("", ":memory:") or path.startswith("file::memory:"):
        raise DatabaseSettingsError(
            f"{variable}: an in-memory SQLite database can't be used, its sessions would share "
            "one transaction; name a file: sqlite:///data/app.db (in tests, one in tmp_path)"
        )
    return DatabaseTarget("sqlite", URL.create("sqlite", database=path), variable)


def postgres_target(
    variable: str,
    *,
    hosts: tuple[Host, ...],
    username: str | None,
    password: str | None,
    database: str | None,
    parameters: Mapping[str, str],
    parameters_variable: str | None = None,
) -> DatabaseTarget:
    """Return the target of a PostgreSQL database.

    Raise DatabaseSettingsError for parameters that can't be honoured.
    """
    named_by = parameters_variable or variable
    if len(hosts) > 1:
        # Without it a standby that is named first would be written to, and refuse.
        parameters = {"target_session_attrs": "read-write", **parameters}
    check_values(parameters, named_by)
    check_tls(parameters, named_by)
    host, port = hosts[0] if len(hosts) == 1 and not is_socket(hosts[0][0]) else (None, None)
    url = URL.create("postgresql", username, password, host, port, database)
    return DatabaseTarget("postgres", url, variable, hosts, parameters, named_by)


def _parse_postgres(rest: str, variable: str, defaults: Mapping[str, str]) -> DatabaseTarget:
    address, _, query = rest.partition("?")
    authority, _, path = address.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    if re.search("[/@]", path):
        # A password that was not encoded: the rest of it would be the name, which is shown.
        raise DatabaseSettingsError(
            f"{variable}: the database's name has a / or an @ inside; {ENCODE_ADVICE}, "
            "or write %2F and %40 in the name"
        )
    named = _parse_query(query, variable)
    parameters = {name: values[-1] for name, values in named.items() if values[-1]}
    parameters.pop("host", None)
    port = parameters.pop("port", "")
    pgbouncer = parameters.pop("pgbouncer", "").lower() in ("true", "1")
    lifted = {name: parameters.pop(name, None) for name in ("user", "password", "dbname")}
    parameters, warnings = normalise_parameters(parameters, variable)
    target = postgres_target(
        variable,
        hosts=merge_hosts(hosts, named.get("host", []), port, variable),
        # None, not an empty string, for what is left to the driver: its user, its password file.
        username=lifted["user"] or unquote(username) or None,
        password=lifted["password"] or unquote(password) or None,
        database=lifted["dbname"] or unquote(path) or None,
        parameters={**defaults, **parameters},
    )
    return replace(target, pgbouncer=pgbouncer, warnings=warnings)


def _parse_query(query: str, variable: str) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for pair in filter(None, query.split("&")):
        name, found, value = pair.partition("=")
        if not found:
            raise DatabaseSettingsError(f"{variable}: each option after ? is written name=value")
        named.setdefault(unquote(name), []).append(unquote(value))
    return named


def _parse_sqlite(rest: str, variable: str) -> DatabaseTarget:
    path, _, query = rest.partition("?")
    named = _parse_query(query, variable)
    if "memory" in named.get("mode", []):
        return sqlite_target(":memory:", variable)
    if named and not path.startswith("/file:"):
        raise DatabaseSettingsError(
            f"{variable}: a SQLite URL takes no options; set APP_DATABASE_SQLITE_* instead"
        )
    if path and not path.startswith("/"):
        raise DatabaseSettingsError(
            f"{variable}: a SQLite URL has three slashes before a relative path "
            "(sqlite:///data/app.db) and four before an absolute one"
        )
    return sqlite_target(path[1:], variable)


def _check_text(text: str, variable: str) -> None:
    if is_quoted(text, (*QUOTES, *TYPOGRAPHIC_QUOTES)):
        raise DatabaseSettingsError(f"{variable}: remove the quotation marks around the value")
    if any(character < " " for character in text):
        raise DatabaseSettingsError(
            f"{variable}: has a line break or another control character inside; remove it"
        )


def _parse_custom(text: str, variable: str) -> DatabaseTarget:
    try:
        url = make_url(text)
        url.get_dialect()
    except (SQLAlchemyError, ValueError, ImportError):
        raise DatabaseSettingsError(
            f"{variable}: SQLAlchemy can't read this URL, or its driver is not installed; "
            f"check dialect+driver:// at its start, and {ENCODE_ADVICE}"
        ) from None
    return DatabaseTarget("custom", url, variable)
