"""TLS parameters: what is refused before a driver sees it, and the files that they name.

asyncpg's own parser and libpq agree on the modes; where they don't, one rule is set here for both.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from ..errors import DatabaseSettingsError

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_VERIFYING_MODES = ("verify-ca", "verify-full")
# Where systems keep the authorities they trust, if Python's OpenSSL knows no single file.
_SYSTEM_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def check_tls(given: Mapping[str, str], variable: str) -> None:
    """Raise DatabaseSettingsError for parameters that protect less than they seem to."""
    mode, authority = given.get("sslmode"), given.get("sslrootcert")
    if authority == "system" and mode not in (None, "verify-full"):
        raise DatabaseSettingsError(f"{variable}: sslrootcert=system needs sslmode=verify-full")
    if authority not in (None, "system") and mode in (None, "allow", "prefer"):
        # libpq falls back to plain text if the certificate is wrong; asyncpg accepts any.
        raise DatabaseSettingsError(
            f"{variable}: sslrootcert protects nothing with sslmode={mode or 'prefer'}; "
            "add sslmode=verify-full"
        )
    if ("sslcert" in given) != ("sslkey" in given):
        raise DatabaseSettingsError(f"{variable}: sslcert and sslkey belong together; give both")
    if given.get("sslnegotiation") == "direct" and mode not in ("require", *_VERIFYING_MODES):
        raise DatabaseSettingsError(f"{variable}: sslnegotiation=direct needs sslmode=verify-full")


def resolve_tls(given: Mapping[str, str], variable: str) -> dict[str, str]:
    """Return the parameters with `system` replaced by a file, after a look at each file.

    The OpenSSL inside psycopg's wheel looks for authorities where no system has them. Raise
    DatabaseSettingsError if a file can't be used, or if the server can't be verified.
    """
    resolved = dict(given)
    if resolved.get("sslrootcert") == "system":
        resolved |= {"sslmode": "verify-full", "sslrootcert": _find_system_authorities(variable)}
    for name in _FILES:
        if name in resolved and not os.access(resolved[name], os.R_OK):
            raise DatabaseSettingsError(
                f"{variable}: the file of {name} can't be read; name one that exists and that "
                "this user may read"
            )
    if "sslkey" in resolved and _is_open_to_others(Path(resolved["sslkey"])):
        raise DatabaseSettingsError(
            f"{variable}: the file of sslkey can be read by others; chmod 600 it "
            "(640 where root owns it)"
        )
    if resolved.get("sslmode") in _VERIFYING_MODES and not _has_authorities(resolved):
        raise DatabaseSettingsError(
            f"{variable}: sslmode={resolved['sslmode']} needs the authority that signed the "
            "server's certificate; add sslrootcert=/path/to/ca.crt, or sslrootcert=system "
            "for a public one"
        )
    return resolved


def _find_system_authorities(variable: str) -> str:
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


def _is_open_to_others(key: Path) -> bool:
    """Return whether libpq refuses the key: asyncpg, and so the application, would accept it."""
    if os.name == "nt":
        return False
    status = key.stat()
    return bool(status.st_mode & (0o037 if status.st_uid == 0 else 0o077))
