"""Database URLs: one libpq-style URL in, what each driver understands out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from .errors import DatabaseSettingsError
from .tls import TLS_PARAMETERS, check_tls, resolve_tls

Backend = Literal["sqlite", "postgres", "custom"]
Host = tuple[str, int]

DEFAULT_PORT = 5432

_POSTGRES_DRIVERS = ("", "asyncpg", "psycopg", "psycopg2", "psycopg_async", "psycopg2cffi")
_SQLITE_DRIVERS = ("", "aiosqlite", "pysqlite")

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_ADDRESS = ("host", "port", "user", "password", "dbname")
# asyncpg reads these from a DSN by the same rules as libpq.
_DSN = (*TLS_PARAMETERS, "krbsrvname", "passfile")
_SERVERS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_SESSION = ("application_name", "options")
_CONNECT = ("connect_timeout",)
# asyncpg does not have these: the engine sets them on its sockets.
_KEEPALIVES = (
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_KNOWN = (*_DSN, "target_session_attrs", *_SESSION, *_CONNECT, *_KEEPALIVES)
_FIXED: dict[str, tuple[str, ...]] = {
    "client_encoding": ("utf8", "utf-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "schema": ("public",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslnegotiation": ("postgres",),
    "sslsni": ("1",),
}
_ADVICE = {
    "client_encoding": "the chassis always uses UTF-8; remove it",
    "command_timeout": "set APP_DATABASE_STATEMENT_TIMEOUT_SECONDS instead",
    "connection_limit": "set APP_DATABASE_POOL_SIZE instead",
    "gssencmode": "asyncpg can't encrypt by GSSAPI; use TLS and remove it",
    "hostaddr": "write the address as the host",
    "load_balance_hosts": "asyncpg can't do it; list the hosts in order and remove it",
    "pool_timeout": "set APP_DATABASE_POOL_TIMEOUT instead",
    "prepared_statement_cache_size": "set APP_DATABASE_PGBOUNCER=true instead",
    "require_auth": "asyncpg can't honour it; use sslmode=verify-full and remove it",
    "schema": "set the role's search_path in the database (ALTER ROLE … SET search_path)",
    "requiressl": "write sslmode=require or, better, verify-full with sslrootcert",
    "service": "write host, port, user and database into the URL",
    "sslaccept": "write sslmode=verify-full with sslrootcert, or sslmode=require",
    "sslcertmode": "give sslcert and sslkey, or neither",
    "sslcompression": "compression in TLS is unsafe; remove it",
    "sslsni": "asyncpg always names the host to the server; remove it",
    "statement_cache_size": "set APP_DATABASE_PGBOUNCER=true instead",
}
_ENCODE = "percent-encode special characters in the user name and the password"


@dataclass(frozen=True)
class DatabaseTarget:
    """One database: where it is, how to reach it, and the variable that chose it.

    `url` carries no driver and no query; a `custom` URL is kept as it was written.
    """

    backend: Backend
    url: URL = field(repr=False)
    chosen_by: str
    hosts: tuple[Host, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    pgbouncer: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def masked(self) -> str:
        """The target for people: no password, no parameters."""
        match self.backend:
            case "sqlite":
                return f"sqlite:///{self.url.database}"
            case "postgres":
                user = f"{self.url.username}@" if self.url.username else ""
                hosts = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.hosts)
                return f"postgresql://{user}{hosts}/{self.url.database or ''}"
            case "custom":
                return self.url.set(query={}).render_as_string(hide_password=True)

    def runtime(self) -> tuple[URL, dict[str, Any]]:
        """Give the URL and the connect arguments of the application's asynchronous driver."""
        match self.backend:
            case "sqlite":
                return self.url.set(drivername="sqlite+aiosqlite"), {}
            case "postgres":
                return self.url.set(drivername="postgresql+asyncpg"), self._asyncpg()
            case "custom":
                return self.url, {}

    def migration(self) -> tuple[URL, dict[str, Any]]:
        """Give the URL and the connect arguments of Alembic's synchronous driver."""
        match self.backend:
            case "sqlite":
                return self.url.set(drivername="sqlite"), {}
            case "postgres":
                return self.url.set(drivername="postgresql+psycopg"), self._psycopg()
            case "custom":
                return self.url, {}

    def _asyncpg(self) -> dict[str, Any]:
        given = self._resolved()
        arguments: dict[str, Any] = {}
        if self._needs_host_arguments:
            arguments["host"] = [host for host, _ in self.hosts]
            arguments["port"] = [port for _, port in self.hosts]
        if "target_session_attrs" in given:
            arguments["target_session_attrs"] = given["target_session_attrs"]
        if given.pop("sslnegotiation", "postgres") == "direct":
            arguments["direct_tls"] = True
        if named := {name: given[name] for name in _DSN if name in given}:
            query = "&".join(f"{name}={_quoted(value)}" for name, value in named.items())
            arguments["dsn"] = f"postgresql://?{query}"
        if settings := {name: given[name] for name in _SESSION if name in given}:
            arguments["server_settings"] = settings
        if "connect_timeout" in given:
            # libpq: zero waits for ever
            arguments["timeout"] = float(given["connect_timeout"]) or None
        return arguments

    def _psycopg(self) -> dict[str, Any]:
        arguments: dict[str, Any] = self._resolved()
        if self._needs_host_arguments:
            arguments["host"] = ",".join(host for host, _ in self.hosts)
            arguments["port"] = ",".join(str(port) for _, port in self.hosts)
        return arguments

    def _resolved(self) -> dict[str, str]:
        if all(_is_socket(host) for host, _ in self.hosts):
            # There is no TLS on a socket, and libpq looks at none of this.
            return {n: self.parameters[n] for n in self.parameters if n not in TLS_PARAMETERS}
        if "passfile" in self.parameters and not os.access(self.parameters["passfile"], os.R_OK):
            raise DatabaseSettingsError(
                f"{self.chosen_by}: the file of passfile can't be read; name one that exists"
            )
        return resolve_tls(self.parameters, self.chosen_by)

    @property
    def _needs_host_arguments(self) -> bool:
        return len(self.hosts) > 1 or _is_socket(self.hosts[0][0])


def parse_url(
    text: str, variable: str, defaults: Mapping[str, str] = MappingProxyType({})
) -> DatabaseTarget:
    """Read a database URL; the dialect in it decides the backend.

    `defaults` are libpq parameters for PostgreSQL; those in the URL win. Raises
    DatabaseSettingsError naming `variable` and what to write; never the text itself.
    """
    scheme, found, rest = text.strip().partition("://")
    dialect, _, driver = scheme.lower().partition("+")
    if not found or not dialect:
        raise DatabaseSettingsError(
            f"{variable}: not a URL; write postgresql://user:password@host:5432/name "
            "or sqlite:///data/app.db"
        )
    match dialect:
        case "postgres" | "postgresql":
            _check_driver(driver, _POSTGRES_DRIVERS, variable)
            return _parse_postgres(rest, variable, defaults)
        case "sqlite":
            _check_driver(driver, _SQLITE_DRIVERS, variable)
            return _parse_sqlite(rest, variable)
        case _:
            return _parse_custom(text.strip(), variable)


def sqlite_target(path: str, variable: str) -> DatabaseTarget:
    """Give the target of a SQLite file. Raises DatabaseSettingsError for an in-memory database."""
    if _is_in_memory(path):
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
    pgbouncer: bool = False,
    warnings: tuple[str, ...] = (),
) -> DatabaseTarget:
    """Give the target of a PostgreSQL database."""
    if len(hosts) > 1:
        # Without it a standby that is named first would be written to, and refuse.
        parameters = {"target_session_attrs": "read-write", **parameters}
    _check_values(parameters, variable)
    host, port = hosts[0] if len(hosts) == 1 and not _is_socket(hosts[0][0]) else (None, None)
    url = URL.create("postgresql", username, password, host, port, database)
    return DatabaseTarget("postgres", url, variable, hosts, parameters, pgbouncer, warnings)


def parse_hosts(
    text: str, variable: str, ports: Sequence[int] = (DEFAULT_PORT,)
) -> tuple[Host, ...]:
    """Read `host`, `host:port`, `[::1]:port`, `/socket/folder`, or several with commas between.

    `ports` are for hosts that name none: one for all of them, or one for each.
    """
    names = [name for name in text.split(",") if name]
    if len(ports) not in (1, len(names)):
        raise DatabaseSettingsError(f"{variable}: give one port, or as many as there are hosts")
    each = ports if len(ports) > 1 else [*ports] * len(names)
    return tuple(_parse_host(name, variable, port) for name, port in zip(names, each, strict=True))


def _parse_host(text: str, variable: str, default_port: int) -> Host:
    if _is_socket(text):
        return text, default_port
    if text.startswith("["):
        host, found, port = text[1:].partition("]")
        if not found or (port and not port.startswith(":")):
            raise DatabaseSettingsError(f"{variable}: an IPv6 host is written [::1]:5432")
        return unquote(host), _parse_port(port[1:], variable, default_port)
    if text.count(":") > 1:
        raise DatabaseSettingsError(
            f"{variable}: the host is malformed; an IPv6 host is written [::1]:5432, and {_ENCODE}"
        )
    host, _, port = text.partition(":")
    return unquote(host) or "localhost", _parse_port(port, variable, default_port)


def _parse_port(text: str, variable: str, default: int) -> int:
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise DatabaseSettingsError(
            f"{variable}: the port is not a number from 1 to 65535; where it is right, {_ENCODE}"
        )
    return int(text)


def _parse_postgres(rest: str, variable: str, defaults: Mapping[str, str]) -> DatabaseTarget:
    address, _, query = rest.partition("?")
    authority, _, path = address.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    named = _parse_query(query, variable)
    repeated = ",".join(named.pop("host", []))
    parameters = {name: values[-1] for name, values in named.items() if values[-1]}
    given = parameters.pop("port", "").split(",")
    ports = [_parse_port(port, variable, DEFAULT_PORT) for port in given]
    pgbouncer = parameters.pop("pgbouncer", "").lower() in ("true", "1")
    lifted = {name: parameters.pop(name, None) for name in ("user", "password", "dbname")}
    parameters, warnings = _checked(parameters, variable)
    return postgres_target(
        variable,
        hosts=parse_hosts(hosts or repeated, variable, ports) or (("localhost", ports[0]),),
        username=unquote(username) or lifted["user"],
        password=unquote(password) or lifted["password"],
        database=unquote(path) or lifted["dbname"],
        parameters={**defaults, **parameters},
        pgbouncer=pgbouncer,
        warnings=warnings,
    )


def _parse_query(query: str, variable: str) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for pair in filter(None, query.split("&")):
        name, found, value = pair.partition("=")
        if not found:
            raise DatabaseSettingsError(f"{variable}: each option after ? is written name=value")
        named.setdefault(unquote(name), []).append(unquote(value))
    return named


def _checked(given: dict[str, str], variable: str) -> tuple[dict[str, str], tuple[str, ...]]:
    given = dict(given)
    if "ssl" in given:
        given.setdefault("sslmode", _SSL_FLAGS.get(given["ssl"].lower(), given["ssl"]))
        del given["ssl"]
    if "fallback_application_name" in given:
        given.setdefault("application_name", given.pop("fallback_application_name"))
    warnings = _channel_binding(given.pop("channel_binding", ""), variable)
    for name in list(given):
        if name in _FIXED and given[name].lower() in _FIXED[name]:
            del given[name]
        elif name not in _KNOWN:
            raise DatabaseSettingsError(f"{variable}: {_unknown(name)}")
    return given, warnings


_SSL_FLAGS = {"true": "require", "1": "require", "false": "disable", "0": "disable"}


def _channel_binding(value: str, variable: str) -> tuple[str, ...]:
    if value != "require":
        return ()
    return (
        f"{variable}: asyncpg can't do channel_binding=require; it is ignored. "
        "sslmode=verify-full with a CA protects against the same attack",
    )


def _unknown(name: str) -> str:
    if name in _ADVICE:
        return f"the option {name} is not supported here: {_ADVICE[name]}"
    near = get_close_matches(name, [*_KNOWN, *_ADDRESS, *_ADVICE], n=1)
    hint = f"did you mean {near[0]}?" if near else "remove it"
    # A password that was not encoded can end up here.
    shown = name if name.replace("_", "").isalnum() and len(name) <= 40 and near else ""
    return f"unknown option{f' {shown}' if shown else ''} after ?: {hint}"


def _check_values(given: Mapping[str, str], variable: str) -> None:
    check_tls(given, variable)
    if given.get("target_session_attrs", "any") not in _SERVERS:
        raise DatabaseSettingsError(
            f"{variable}: target_session_attrs is one of {', '.join(_SERVERS)}"
        )
    for name in ("connect_timeout", *_KEEPALIVES):
        if not given.get(name, "0").isdigit():
            unit = " of seconds" if name == "connect_timeout" else ""
            raise DatabaseSettingsError(f"{variable}: {name} is a whole number{unit}")


def _parse_sqlite(rest: str, variable: str) -> DatabaseTarget:
    path, _, query = rest.partition("?")
    named = _parse_query(query, variable)
    if "memory" in named.get("mode", []) or _is_in_memory(path[1:]):
        return sqlite_target(":memory:", variable)
    if named:
        raise DatabaseSettingsError(
            f"{variable}: a SQLite URL takes no options; set APP_DATABASE_SQLITE_* instead"
        )
    if path and not path.startswith("/"):
        raise DatabaseSettingsError(
            f"{variable}: a SQLite URL has three slashes before a relative path "
            "(sqlite:///data/app.db) and four before an absolute one"
        )
    return sqlite_target(path[1:], variable)


def _is_in_memory(path: str) -> bool:
    return path in ("", ":memory:") or path.startswith("file:")


def _parse_custom(text: str, variable: str) -> DatabaseTarget:
    try:
        url = make_url(text)
        url.get_dialect()
    except (SQLAlchemyError, ValueError, ImportError):
        raise DatabaseSettingsError(
            f"{variable}: SQLAlchemy can't read this URL, or its driver is not installed; "
            f"check dialect+driver:// at its start, and {_ENCODE}"
        ) from None
    return DatabaseTarget("custom", url, variable)


def _check_driver(driver: str, known: tuple[str, ...], variable: str) -> None:
    if driver not in known:
        raise DatabaseSettingsError(
            f"{variable}: leave the driver out of the URL (postgresql://… or sqlite:///…); "
            "the chassis chooses it"
        )


def _quoted(value: str) -> str:
    return "".join(f"%{byte:02X}" for byte in value.encode())


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_socket(host: str) -> bool:
    return host.startswith("/")
