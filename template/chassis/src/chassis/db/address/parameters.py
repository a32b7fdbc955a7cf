"""What may stand behind the `?` of a PostgreSQL URL: libpq's names, and advice for others."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from ..errors import DatabaseSettingsError
from .tls import TLS_PARAMETERS, check_tls

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_ADDRESS = ("host", "port", "user", "password", "dbname")
# asyncpg reads these from a DSN by the same rules as libpq.
DSN_PARAMETERS = (*TLS_PARAMETERS, "krbsrvname", "passfile")
_SESSION_ATTRS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
SESSION_PARAMETERS = ("application_name", "options")
_CONNECT = ("connect_timeout",)
# asyncpg does not have these: the engine sets them on its sockets.
_KEEPALIVES = (
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_KNOWN = (*DSN_PARAMETERS, "target_session_attrs", *SESSION_PARAMETERS, *_CONNECT, *_KEEPALIVES)
_ACCEPTED_VALUES: dict[str, tuple[str, ...]] = {
    "client_encoding": ("utf8", "utf-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "schema": ("public",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslnegotiation": ("postgres",),
    "sslsni": ("1",),
}
_SEARCH_PATH = "set the role's search_path in the database (ALTER ROLE … SET search_path = …)"
# Sent with each connection from a setting: the server would ignore what `options` says.
_SENT_FROM_SETTINGS = {
    "statement_timeout": "set APP_DATABASE_STATEMENT_TIMEOUT_SECONDS instead",
    "lock_timeout": "set APP_DATABASE_LOCK_TIMEOUT_SECONDS instead",
    "idle_in_transaction_session_timeout": (
        "set APP_DATABASE_IDLE_IN_TRANSACTION_TIMEOUT_SECONDS instead"
    ),
    "default_transaction_read_only": "take DbReadSession for what only reads",
}
_ADVICE = {
    **_SENT_FROM_SETTINGS,
    "ApplicationName": "write application_name",
    "connectTimeout": "write connect_timeout",
    "currentSchema": _SEARCH_PATH,
    "loginTimeout": "write connect_timeout",
    "max_overflow": "set APP_DATABASE_MAX_OVERFLOW instead",
    "pool_size": "set APP_DATABASE_POOL_SIZE instead",
    "search_path": _SEARCH_PATH,
    "socketTimeout": "set APP_DATABASE_STATEMENT_TIMEOUT_SECONDS instead",
    "unix_sock": "write the folder of the socket as host: ?host=/folder",
    "client_encoding": "the chassis always uses UTF-8; remove it",
    "command_timeout": "set APP_DATABASE_STATEMENT_TIMEOUT_SECONDS instead",
    "connection_limit": "set APP_DATABASE_POOL_SIZE instead",
    "gssencmode": "asyncpg can't encrypt by GSSAPI; use TLS and remove it",
    "hostaddr": "write the address as the host",
    "load_balance_hosts": "asyncpg can't do it; list the hosts in order and remove it",
    "pool_timeout": "set APP_DATABASE_POOL_TIMEOUT instead",
    "prepared_statement_cache_size": "set APP_DATABASE_PGBOUNCER=true instead",
    "require_auth": "asyncpg can't honour it; use sslmode=verify-full and remove it",
    "schema": _SEARCH_PATH,
    "requiressl": "write sslmode=require or, better, verify-full with sslrootcert",
    "service": "write host, port, user and database into the URL",
    "sslaccept": "write sslmode=verify-full with sslrootcert, or sslmode=require",
    "sslcertmode": "give sslcert and sslkey, or neither",
    "sslcompression": "compression in TLS is unsafe; remove it",
    "sslsni": "asyncpg always names the host to the server; remove it",
    "statement_cache_size": "set APP_DATABASE_PGBOUNCER=true instead",
}


def normalise_parameters(
    given: dict[str, str], variable: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the parameters by libpq's names, and warnings for those that are ignored.

    Raises DatabaseSettingsError for one that is unknown or can't be honoured, with advice.
    """
    given = dict(given)
    if "ssl" in given:
        given.setdefault("sslmode", _SSL_FLAGS.get(given["ssl"].lower(), given["ssl"]))
        del given["ssl"]
    if "fallback_application_name" in given:
        given.setdefault("application_name", given.pop("fallback_application_name"))
    warnings = _channel_binding(given.pop("channel_binding", ""), variable)
    for name in list(given):
        if name in _ACCEPTED_VALUES and given[name].lower() in _ACCEPTED_VALUES[name]:
            del given[name]
        elif name not in _KNOWN:
            raise DatabaseSettingsError(f"{variable}: {_unknown(name)}")
    return given, warnings


def check_values(given: Mapping[str, str], variable: str) -> None:
    """Refuse values that no driver takes, or that the two take differently."""
    check_tls(given, variable)
    if given.get("target_session_attrs", "any") not in _SESSION_ATTRS:
        raise DatabaseSettingsError(
            f"{variable}: target_session_attrs is one of {', '.join(_SESSION_ATTRS)}"
        )
    for name in ("connect_timeout", *_KEEPALIVES):
        if not given.get(name, "0").isdigit():
            unit = " of seconds" if name == "connect_timeout" else ""
            raise DatabaseSettingsError(f"{variable}: {name} is a whole number{unit}")
    options = given.get("options", "").replace("-", "_")
    for name, advice in _SENT_FROM_SETTINGS.items():
        if re.search(rf"(?:^|\s)_(?:c\s*|_){name}\s*=", options):
            raise DatabaseSettingsError(f"{variable}: options can't set {name}: {advice}")


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
