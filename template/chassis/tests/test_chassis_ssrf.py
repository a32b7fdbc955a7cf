"""Addresses that a service may call at the wish of others."""

import asyncio
import socket
from typing import Any

import pytest

from chassis.ssrf import PrivateAddressError, resolve_public_address

PUBLIC = ("1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101")
PRIVATE = (
    "127.0.0.1",
    # Other ways to write it, which the resolver reads.
    "127.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.31.255.255",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:1.1.1.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
)


def resolve(host: str, *allowed: str) -> str:
    return asyncio.run(resolve_public_address(host, allowed=allowed))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_called(address: str) -> None:
    assert resolve(address) == address


@pytest.mark.parametrize("address", PRIVATE)
def test_any_other_address_may_not(address: str) -> None:
    with pytest.raises(PrivateAddressError, match=r"has the address .*, which is not public"):
        resolve(address)


def test_a_name_counts_by_its_addresses() -> None:
    with pytest.raises(PrivateAddressError, match=r"localhost has the address (127\.0\.0\.1|::1)"):
        resolve("localhost")


def test_one_private_address_beside_a_public_one_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*arguments: Any, **options: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("1.1.1.1", 0)), (*kind, ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(PrivateAddressError, match=r"10\.0\.0\.1"):
        resolve("hooks.example.com")
    assert resolve("hooks.example.com", "10.0.0.0/8") == "1.1.1.1"


def test_a_network_can_be_allowed() -> None:
    assert resolve("127.0.0.1", "10.0.0.0/8", "127.0.0.0/8") == "127.0.0.1"
    with pytest.raises(PrivateAddressError):
        resolve("127.0.0.1", "127.0.0.2/32")


def test_a_host_without_an_address_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match=r"."):
        resolve("nowhere.invalid")
