"""What may stand behind the `?` of a PostgreSQL URL: libpq's names, and advice for others."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, get_args

from ..errors import DatabaseSettingsError

SSLMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
_SESSION_ATTRS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_TLS_VERSIONS = ("ssl_min_protocol_version", "ssl_max_protocol_version")
TLS_PARAMETERS = ("sslmode", "sslnegotiation", "sslpassword", *_TLS_FILES, *_TLS_VERSIONS)
# asyncpg reads these from a DSN by the same rules as libpq.
DSN_PARAMETERS = (*TLS_PARAMETERS, "krbsrvname", "passfile")
SESSION_PARAMETERS = ("application_name", "options")
# asyncpg has none but the first: the engine sets the others on its sockets.
_KEEPALIVES = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count")
_WHOLE_NUMBERS = ("connect_timeout", "tcp_user_timeout", *_KEEPALIVES)
_PARAMETERS = (*DSN_PARAMETERS, *SESSION_PARAMETERS, *_WHOLE_NUMBERS, "target_session_attrs")
_ADDRESS = ("host", "port", "user", "password", "dbname")

_CHOICES = {
    "sslmode": get_args(SSLMode),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": _SESSION_ATTRS,
    **dict.fromkeys(_TLS_VERSIONS, ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")),
}
# Values that ask for what is done anyway; with another value the name is refused.
_ACCEPTED_VALUES = {
    "client_encoding": ("utf8", "utf-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "schema": ("public",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslnegotiation": ("postgres",),
    "sslsni": ("1",),
}
_SSL_FLAGS = {"true": "require", "1": "require", "false": "disable", "0": "disable"}

# Sent with each connection from a setting: the server would ignore what `options` says.
_SENT_FROM_SETTINGS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_read_only",
)
_SEARCH_PATH = "set the role's search_path in the database (ALTER ROLE … SET search_path = …)"
_STATEMENT_TIMEOUT = "set APP_DATABASE_STATEMENT_TIMEOUT_SECONDS instead"
_POOL_SIZE = "set APP_DATABASE_POOL_SIZE instead"
_PGBOUNCER = "set APP_DATABASE_PGBOUNCER=true instead"
_ADVICE = {
    "client_encoding": "the chassis always uses UTF-8; remove it",
    "command_timeout": _STATEMENT_TIMEOUT,
    "connection_limit": _POOL_SIZE,
    "currentSchema": _SEARCH_PATH,
    "default_transaction_read_only": "take DbReadSession for what only reads",
    "gssencmode": "asyncpg can't encrypt by GSSAPI; use TLS and remove it",
    "idle_in_transaction_session_timeout": (
        "set APP_DATABASE_IDLE_IN_TRANSACTION_TIMEOUT_SECONDS instead"
    ),
    "load_balance_hosts": "asyncpg can't do it; list the hosts in order and remove it",
    "lock_timeout": "set APP_DATABASE_LOCK_TIMEOUT_SECONDS instead",
    "pool_size": _POOL_SIZE,
    "pool_timeout": "set APP_DATABASE_POOL_TIMEOUT instead",
    "prepared_statement_cache_size": _PGBOUNCER,
    "require_auth": "asyncpg can't honour it; use sslmode=verify-full and remove it",
    "requiressl": "write sslmode=require or, better, verify-full with sslrootcert",
    "schema": _SEARCH_PATH,
    "search_path": _SEARCH_PATH,
    "service": "write host, port, user and database into the URL",
    "socketTimeout": _STATEMENT_TIMEOUT,
    "socket_timeout": _STATEMENT_TIMEOUT,
    "sslaccept": "write sslmode=verify-full with sslrootcert, or sslmode=require",
    "sslcertmode": "give sslcert and sslkey, or neither",
    "sslcompression": "compression in TLS is unsafe; remove it",
    "sslsni": "asyncpg always names the host to the server; remove it",
    "statement_cache_size": _PGBOUNCER,
    "statement_timeout": _STATEMENT_TIMEOUT,
    "unix_sock": "write the folder of the socket as host: ?host=/folder",
}


def normalise_parameters(
    given: Mapping[str, str], variable: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the parameters by libpq's names, and warnings for those that are ignored.

    Raise DatabaseSettingsError for one that is unknown or can't be honoured, with advice.
    """
    named = dict(given)
    if "ssl" in named:
        flag = named.pop("ssl")
        named.setdefault("sslmode", _SSL_FLAGS.get(flag.lower(), flag))
    if "fallback_application_name" in named:
        named.setdefault("application_name", named.pop("fallback_application_name"))
    warnings: tuple[str, ...] = ()
    if named.pop("channel_binding", "") == "require":
        warnings = (
            f"{variable}: asyncpg can't do channel_binding=require; it is ignored. "
            "sslmode=verify-full with a CA protects against the same attack",
        )
    for name, value in list(named.items()):
        if value.lower() in _ACCEPTED_VALUES.get(name, ()):
            del named[name]
        elif name not in _PARAMETERS:
            raise DatabaseSettingsError(f"{variable}: {_advise_on(name)}")
    return named, warnings


def check_values(given: Mapping[str, str], variable: str) -> None:
    """Raise DatabaseSettingsError for values that a driver refuses, or takes differently."""
    for name, choices in _CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise DatabaseSettingsError(f"{variable}: {name} is one of {', '.join(choices)}")
    for name in _WHOLE_NUMBERS:
        if not given.get(name, "0").isdigit():
            unit = " of seconds" if name == "connect_timeout" else ""
            raise DatabaseSettingsError(f"{variable}: {name} is a whole number{unit}")
    options = given.get("options", "").replace("-", "_")
    for name in _SENT_FROM_SETTINGS:
        if re.search(rf"(?:^|\s)_(?:c\s*|_){name}\s*=", options):
            raise DatabaseSettingsError(f"{variable}: options can't set {name}: {_ADVICE[name]}")


def _advise_on(name: str) -> str:
    """Return what to write instead of a name; a password that was not encoded is never shown."""
    if name in _ADVICE:
        return f"the option {name} is not supported here: {_ADVICE[name]}"
    near = get_close_matches(name, [*_PARAMETERS, *_ADDRESS, *_ADVICE], n=1)
    if not near:
        return "unknown option after ?: remove it"
    shown = f" {name}" if re.fullmatch(r"\w{1,40}", name) else ""
    return f"unknown option{shown} after ?: did you mean {near[0]}?"
