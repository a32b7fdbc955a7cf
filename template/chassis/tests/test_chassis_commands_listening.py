"""The sockets that a server listens on."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from chassis_processes import free_port, has_ipv6

from chassis import ChassisSettings
from chassis.commands.listening import format_urls, open_sockets

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


@pytest.mark.parametrize(
    ("host", "reachable"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        pytest.param("::1", ["::1"], marks=needs_ipv6),
        pytest.param("::", ["127.0.0.1", "::1"], marks=needs_ipv6),
    ],
)
def test_a_host_is_reached_by_its_addresses_and_no_other(host: str, reachable: list[str]) -> None:
    port = free_port()
    with listening(host, port):
        assert [one for one in ("127.0.0.1", "::1") if accepts(one, port)] == reachable


@needs_ipv6
def test_a_name_is_reached_by_each_of_its_addresses_that_exist_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    look_up = socket.getaddrinfo

    def find_several(host: str, *arguments: Any, **options: Any) -> list[Any]:
        addresses = ("::1", "127.0.0.1", "127.0.0.1", "192.0.2.1")
        return [found for one in addresses for found in look_up(one, *arguments, **options)]

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", find_several)
        sockets = open_sockets("localhost", port)
    assert format_urls(sockets) == f"http://[::1]:{port}, http://127.0.0.1:{port}"
    for one in sockets:
        one.close()


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        open_sockets("192.0.2.1", free_port())


@pytest.mark.parametrize("path", ["orders", "/", "/orders/", "/or ders", "https://a/b", "/a?b"])
def test_a_root_path_begins_with_a_slash_and_does_not_end_with_it(path: str) -> None:
    with pytest.raises(ValueError, match="must begin with / and not end with it"):
        ChassisSettings(server_root_path=path)
    assert ChassisSettings(server_root_path="/shop/orders-2").server_root_path == "/shop/orders-2"


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Accept connections until the block ends."""
    sockets = open_sockets(host, port)
    with ExitStack() as stack:
        for one in sockets:
            stack.enter_context(one).listen()
        yield sockets


def accepts(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=5):
            return True
    except OSError:
        return False
