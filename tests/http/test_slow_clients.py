"""Clients that take their time or leave: they hold no connection, and nobody waits for them."""

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.postgres import HOST
from tests.scale import FULL

from .attacked import ITEM, SETTLES_WITHIN_SECONDS, Attacked, Running

CLIENTS = 40 if FULL else 6
# A pool that fewer clients than these use up.
POOL = {
    "APP_DATABASE_POOL_SIZE": "2",
    "APP_DATABASE_READ_POOL_SIZE": "2",
    "APP_DATABASE_POOL_TIMEOUT": "2",
}
BODY = json.dumps(ITEM).encode()
HEAD = (
    b"POST /items HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
)
LIST = b"GET /items?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n"
LISTS = 'http_requests_total{method="GET",route="/items",status="200"}'
LARGE = ITEM | {"name": "\U0001f600" * 200}
ABORT = struct.pack("ii", 1, 0)


def test_clients_that_send_a_byte_at_a_time_are_served_and_hold_nothing(
    attacked: Attacked,
) -> None:
    with attacked.serving(**POOL) as running, connected(running) as sockets:
        for sent, byte in enumerate(HEAD + BODY):
            for one in sockets:
                one.sendall(bytes([byte]))
            if sent % 40 == 0:
                running.check_that_it_serves()
                assert not any(running.lent().values())
        assert [status_of(one) for one in sockets] == ["201"] * CLIENTS
        running.check_that_it_is_whole()


@pytest.mark.parametrize("aborts", [False, True], ids=["close", "reset"])
def test_clients_that_leave_within_their_body_leave_nothing(
    attacked: Attacked, aborts: bool
) -> None:
    with attacked.serving(**POOL) as running:
        with connected(running) as sockets:
            for one in sockets:
                one.sendall(HEAD + BODY[:10])
            wait_until(lambda: running.metrics()["http_requests_in_flight"] > CLIENTS)
            running.check_that_it_serves()
            leave(sockets, aborts)
        running.check_that_it_is_whole()


@pytest.mark.parametrize("aborts", [False, True], ids=["close", "reset"])
def test_clients_that_leave_while_their_query_runs_leave_nothing(
    attacked: Attacked, aborts: bool
) -> None:
    with attacked.serving(**POOL) as running:
        with attacked.writes_blocked(), connected(running) as sockets:
            for one in sockets:
                one.sendall(HEAD + BODY)
            wait_until(lambda: max(running.lent().values()) > 0)
            running.check_that_it_serves()
            leave(sockets, aborts)
            running.check_that_it_serves()
        running.check_that_it_is_whole()


def test_clients_that_never_send_their_body_are_told_so(attacked: Attacked) -> None:
    with (
        attacked.serving(**POOL, APP_HTTP_REQUEST_TIMEOUT_SECONDS="1") as running,
        connected(running) as sockets,
    ):
        for one in sockets:
            one.sendall(HEAD)
        running.check_that_it_serves()
        assert [status_of(one) for one in sockets] == ["408"] * CLIENTS
        running.check_that_it_is_whole()


def test_clients_that_never_read_hold_no_connection_of_the_database(attacked: Attacked) -> None:
    with attacked.serving(**POOL) as running:
        for _ in range(100):
            assert running.client.post("/items", json=LARGE).status_code == 201
        running.check_that_it_serves()
        with connected(running, receives=4096) as sockets:
            for one in sockets:
                # More of them than all the buffers in between can hold the answers to.
                one.sendall(LIST * 200)
            wait_until(lambda: is_stuck(running))
            assert not any(running.lent().values())
            running.check_that_it_serves()
            leave(sockets, aborts=True)
        running.check_that_it_is_whole()


@contextmanager
def connected(running: Running, receives: int | None = None) -> Iterator[list[socket.socket]]:
    """Connect clients, more than the pool has connections; close what is still open at the end."""
    with ExitStack() as stack:
        sockets = []
        for _ in range(CLIENTS):
            one = stack.enter_context(socket.socket())
            if receives is not None:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.settimeout(SETTLES_WITHIN_SECONDS)
            one.connect((HOST, running.port))
            sockets.append(one)
        yield sockets


def leave(sockets: list[socket.socket], aborts: bool) -> None:
    """Close connections, or reset them."""
    for one in sockets:
        if aborts:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        one.close()


def status_of(connection: socket.socket) -> str:
    """Read the answer to its end, which is that of the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    found = re.match(rb"HTTP/1\.1 (\d{3})", received)
    assert found is not None, received
    return found[1].decode()


def is_stuck(running: Running) -> bool:
    """Return whether each client has a request without an answer, and nothing goes on with them."""
    answered = running.metrics()[LISTS]
    time.sleep(0.5)
    metrics = running.metrics()
    return metrics[LISTS] == answered and metrics["http_requests_in_flight"] > CLIENTS


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what is bound to come."""
    deadline = time.monotonic() + SETTLES_WITHIN_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
