"""TLS parameters: what is refused before a driver sees it, and the files that they name.

asyncpg's own parser and libpq agree on the modes; where they don't, one rule is set here for both.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from ..errors import DatabaseSettingsError

SSLMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

SSL_MODES = get_args(SSLMode)
TLS_PARAMETERS = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_ENCRYPTED = ("require", "verify-ca", "verify-full")
_VERIFIED = ("verify-ca", "verify-full")
_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
# Where systems keep the authorities they trust, when Python's OpenSSL knows no single file.
_SYSTEM_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def check_tls(given: Mapping[str, str], variable: str) -> None:
    """Refuse values that no driver knows, and those that protect less than they seem to."""
    variable = _named(variable)
    mode, authority = given.get("sslmode"), given.get("sslrootcert")
    if mode not in (None, *SSL_MODES):
        raise DatabaseSettingsError(f"{variable}: sslmode is one of {', '.join(SSL_MODES)}")
    if authority == "system" and mode not in (None, "verify-full"):
        raise DatabaseSettingsError(f"{variable}: sslrootcert=system needs sslmode=verify-full")
    if authority not in (None, "system") and mode in (None, "allow", "prefer"):
        # libpq falls back to plain text where the certificate is wrong; asyncpg accepts any.
        raise DatabaseSettingsError(
            f"{variable}: sslrootcert protects nothing with sslmode={mode or 'prefer'}; "
            "add sslmode=verify-full"
        )
    if ("sslcert" in given) != ("sslkey" in given):
        raise DatabaseSettingsError(f"{variable}: sslcert and sslkey belong together; give both")
    for name in ("ssl_min_protocol_version", "ssl_max_protocol_version"):
        if given.get(name, "TLSv1.3") not in _VERSIONS:
            raise DatabaseSettingsError(f"{variable}: {name} is one of {', '.join(_VERSIONS)}")
    negotiation = given.get("sslnegotiation", "postgres")
    if negotiation not in ("postgres", "direct"):
        raise DatabaseSettingsError(f"{variable}: sslnegotiation is postgres or direct")
    if negotiation == "direct" and mode not in _ENCRYPTED:
        raise DatabaseSettingsError(f"{variable}: sslnegotiation=direct needs sslmode=verify-full")


def resolve_tls(given: Mapping[str, str], variable: str) -> dict[str, str]:
    """Return the parameters with their files looked at, and `system` as the file that it means.

    The OpenSSL inside psycopg's wheel looks for authorities where no system has them.
    """
    resolved, variable = dict(given), _named(variable)
    if resolved.get("sslrootcert") == "system":
        resolved |= {"sslmode": "verify-full", "sslrootcert": _system_authorities(variable)}
    for name in _FILES:
        if name in resolved and not os.access(resolved[name], os.R_OK):
            raise DatabaseSettingsError(
                f"{variable}: the file of {name} can't be read; name one that exists and that "
                f"this user may read, there or by APP_DATABASE_POSTGRES_{name.upper()}"
            )
    if "sslkey" in resolved:
        _check_key(Path(resolved["sslkey"]), variable)
    if resolved.get("sslmode") in _VERIFIED and not _has_authorities(resolved):
        raise DatabaseSettingsError(
            f"{variable}: sslmode={resolved['sslmode']} needs the authority that signed the "
            "server's certificate; add sslrootcert=/path/to/ca.crt, or sslrootcert=system "
            "for a public one"
        )
    return resolved


def _named(variable: str) -> str:
    return "APP_DATABASE_POSTGRES_SSLMODE" if variable == "APP_DATABASE_BACKEND" else variable


def _system_authorities(variable: str) -> str:
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_CA_FILES):
        if path and Path(path).is_file():
            return path
    raise DatabaseSettingsError(
        f"{variable}: sslrootcert=system finds no file of authorities on this machine; "
        "install ca-certificates, set SSL_CERT_FILE, or name the file in sslrootcert"
    )


def _has_authorities(given: Mapping[str, str]) -> bool:
    if "sslrootcert" in given or os.environ.get("PGSSLROOTCERT"):
        return True
    return Path("~/.postgresql/root.crt").expanduser().is_file()


def _check_key(file: Path, variable: str) -> None:
    """Ask of the key what libpq asks, so that the application does not accept what it refuses."""
    if os.name == "nt":
        return
    status = file.stat()
    if status.st_mode & (0o037 if status.st_uid == 0 else 0o077):
        raise DatabaseSettingsError(
            f"{variable}: the file of sslkey can be read by others; chmod 600 it "
            "(640 where root owns it)"
        )
