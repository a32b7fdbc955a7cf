"""The sockets that a server listens on: the same, however many processes serve."""

import os
import socket
from contextlib import ExitStack
from errno import EADDRNOTAVAIL, EAFNOSUPPORT

# A name may have addresses of other machines.
_ADDRESS_IS_MISSING = (EADDRNOTAVAIL, EAFNOSUPPORT)


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind a socket to each address of a host; `::` means IPv4 as well.

    Raise OSError if an address is taken, or if none of them exists here.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    missing: list[OSError] = []
    with ExitStack() as stack:
        bound: list[socket.socket] = []
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            try:
                bound.append(stack.enter_context(_bind_socket(family, address)))
            except OSError as error:
                if error.errno not in _ADDRESS_IS_MISSING:
                    raise
                missing.append(error)
        if not bound:
            raise missing[0]
        stack.pop_all()
    return bound


def format_urls(sockets: list[socket.socket]) -> str:
    """Return the URLs of bound sockets, with commas between."""
    addresses = [one.getsockname()[:2] for one in sockets]
    hosts = [(f"[{host}]" if ":" in host else host, port) for host, port in addresses]
    return ", ".join(f"http://{host}:{port}" for host, port in hosts)


def _bind_socket(family: int, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        made.bind(address)
        made.set_inheritable(True)
    except OSError:
        made.close()
        raise
    return made
