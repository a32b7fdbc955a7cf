"""The addresses of hosts, and which of them are public."""

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Networks = Iterable[str | IPv4Network | IPv6Network]

_GLOBAL_UNICAST = IPv6Network("2000::/3")
# An IPv4 address within: where NAT64 and 6to4 would send the call.
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")


class PrivateAddressError(Exception):
    """A host has an address that is not public. Its text has the address: keep it from callers."""


async def resolve_public_address(host: str, *, allowed: Networks = ()) -> str:
    """Return an address of a host, for a call that connects to it and does not resolve again.

    Raise PrivateAddressError if any of its addresses is neither public nor in one of the `allowed`
    networks, such as `10.1.0.0/16`; OSError if it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [str(one[4][0]) for one in found]
    networks = [ip_network(network) for network in allowed]
    for address in map(ip_address, addresses):
        if not _is_public(address) and not any(address in network for network in networks):
            raise PrivateAddressError(f"{host} has the address {address}, which is not public")
    return addresses[0]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST or address in _6TO4:
            return False
    return address.is_global and not address.is_multicast
