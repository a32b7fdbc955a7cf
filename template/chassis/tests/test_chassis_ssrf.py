"""Addresses that a service may call at the wish of others."""

import asyncio
import socket
import time
from typing import Any

import httpx2
import pytest
from chassis_forks import run_code

from chassis.ssrf import PrivateAddressError, public_transport, resolve_public_address
from chassis.testing import Receiver

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


def call(url: str, *allowed: str, **options: Any) -> httpx2.Response:
    async def get() -> httpx2.Response:
        transport = public_transport(allowed=allowed)
        async with httpx2.AsyncClient(transport=transport, **options) as client:
            return await client.get(url)

    return asyncio.run(get())


def test_a_client_calls_what_is_allowed_by_the_name_of_its_url(receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost")
    receiver.answer_next(307, headers={"Location": "/elsewhere"})
    answer = call(f"{url}/hooks?id=7", "127.0.0.0/8", "::1/128", follow_redirects=True)
    assert str(answer.url) == f"{url}/elsewhere"
    assert [request.path for request in receiver.requests] == ["/hooks?id=7", "/elsewhere"]
    assert {request.headers["host"] for request in receiver.requests} == {
        url.removeprefix("http://")
    }


def test_a_private_address_is_an_error_of_both_kinds(receiver: Receiver) -> None:
    with pytest.raises(httpx2.ConnectError, match="not public") as raised:
        call(receiver.url)
    assert isinstance(raised.value, PrivateAddressError)
    assert receiver.requests == []


@pytest.mark.parametrize(
    "url", ["https://nowhere.invalid", f"https://{'a' * 64}.example.com", "https://a..example.com"]
)
def test_a_host_that_has_no_address_is_an_error_of_the_client(url: str) -> None:
    with pytest.raises(httpx2.ConnectError, match="the host has no address"):
        call(url)


def test_a_name_that_is_resolved_slowly_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(0.2))
    with pytest.raises(httpx2.ConnectTimeout):
        call("https://hooks.example.com", timeout=0.01)


@pytest.mark.parametrize("wrong", ["10.1.0.1/16", "10.1.0.0/33", "example.com"])
def test_what_is_no_network_is_an_error_at_the_start(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"public_transport\(allowed=…\): .*10\.1\.0\.0/16 is"):
        public_transport(allowed=["10.0.0.0/8", wrong])


def test_a_service_without_httpx2_is_told_so_when_it_needs_it() -> None:
    code = (
        "import sys; sys.modules['httpx2'] = None; from chassis.ssrf import *; public_transport()"
    )
    assert "public_transport needs httpx2: uv add httpx2" in run_code(code).stderr
