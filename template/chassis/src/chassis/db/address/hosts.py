"""The hosts of PostgreSQL servers, as URLs and settings name them."""

from collections.abc import Sequence
from urllib.parse import unquote

from ..errors import DatabaseSettingsError

Host = tuple[str, int]

DEFAULT_PORT = 5432
ENCODE_ADVICE = "percent-encode special characters in the user name and the password"


def parse_hosts(
    text: str, variable: str, ports: Sequence[int] = (DEFAULT_PORT,)
) -> tuple[Host, ...]:
    """Return the hosts in `host`, `host:port`, `[::1]:port`, `/socket/folder`, or in several.

    `ports` are for hosts that name none: one for all of them, or one for each.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    each = _assign_ports(ports, len(names), variable)
    return tuple(_parse_host(name, variable, port) for name, port in zip(names, each, strict=True))


def merge_hosts(stated: str, named: Sequence[str], port: str, variable: str) -> tuple[Host, ...]:
    """Return a URL's hosts: those after the ? win over those before it, as in libpq."""
    before = parse_hosts(stated, variable)
    ports = [given for _, given in before] or [DEFAULT_PORT]
    if port:
        ports = [parse_port(part, variable, DEFAULT_PORT) for part in port.split(",")]
    if any(named):
        return parse_hosts(",".join(named), variable, ports)
    hosts = [host for host, _ in before] or ["localhost"]
    return tuple(zip(hosts, _assign_ports(ports, len(hosts), variable), strict=True))


def _assign_ports(ports: Sequence[int], hosts: int, variable: str) -> Sequence[int]:
    if len(ports) not in (1, hosts):
        raise DatabaseSettingsError(f"{variable}: give one port, or as many as there are hosts")
    return ports if len(ports) > 1 else [*ports] * hosts


def _parse_host(text: str, variable: str, default_port: int) -> Host:
    if is_socket(text):
        folder, found, port = text.partition("/.s.PGSQL.")
        return folder, parse_port(port, variable, default_port)
    if text.startswith("["):
        host, found, port = text[1:].partition("]")
        if not found or (port and not port.startswith(":")):
            raise DatabaseSettingsError(f"{variable}: an IPv6 host is written [::1]:5432")
        return unquote(host), parse_port(port[1:], variable, default_port)
    if text.count(":") > 1:
        raise DatabaseSettingsError(
            f"{variable}: the host is malformed; an IPv6 host is written [::1]:5432, "
            f"and {ENCODE_ADVICE}"
        )
    host, _, port = text.partition(":")
    return unquote(host) or "localhost", parse_port(port, variable, default_port)


def parse_port(text: str, variable: str, default: int) -> int:
    """Return a port, or the default for an empty text. Raise DatabaseSettingsError for others."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise DatabaseSettingsError(
            f"{variable}: the port is not a number from 1 to 65535; if it is right, {ENCODE_ADVICE}"
        )
    return int(text)


def bracket_ipv6(host: str) -> str:
    """Return a host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


def is_socket(host: str) -> bool:
    """Return whether a host is the folder of a socket."""
    return host.startswith("/")
