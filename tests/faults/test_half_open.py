"""Clients that open connections and never finish asking."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.postgres import HOST

from .service import Ledger, served, wait_until

CONNECTIONS = 500
HEADER_SECONDS = 3
HALF = b"GET /livez HTTP/1.1\r\nHost: half\r\n"
WHOLE = HALF + b"\r\n"
FEW_FILES = ("sh", "-c", 'ulimit -n 128; exec "$@"', "sh")


@contextmanager
def half_open(ledger: Ledger, *sent: bytes) -> Iterator[list[socket.socket]]:
    """Open many connections and send the same on each, its parts one after the other."""
    port = ledger.client.base_url.port
    with ExitStack() as stack:
        made = []
        for _ in range(CONNECTIONS):
            one = stack.enter_context(socket.create_connection((HOST, port), timeout=30))
            made.append(one)
            for part in sent:
                one.sendall(part)
                if part is WHOLE:
                    one.recv(4096)
        yield made


def is_closed(connection: socket.socket) -> bool:
    """Return whether the server closed a connection, whatever it said before."""
    connection.settimeout(0.01)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("sent", [(), (HALF,), (WHOLE, HALF)], ids=["nothing", "half", "second"])
def test_connections_without_a_whole_request_are_closed(
    tmp_path: Path, sent: tuple[bytes, ...]
) -> None:
    with (
        served(tmp_path, APP_SERVER_HEADER_TIMEOUT_SECONDS=str(HEADER_SECONDS)) as ledger,
        half_open(ledger, *sent) as connections,
    ):
        assert ledger.client.get("/livez").status_code == 200
        closed = wait_until(lambda: all(map(is_closed, connections)), "all are closed", 30)
        log = ledger.log.read_text()
    print(f"\n{CONNECTIONS} were closed within {closed:.1f} s")
    assert log.count("closed without the headers of a request") <= 3


def test_headers_that_arrive_byte_by_byte_get_no_more_time(tmp_path: Path) -> None:
    with served(tmp_path, APP_SERVER_HEADER_TIMEOUT_SECONDS=str(HEADER_SECONDS)) as ledger:
        port = ledger.client.base_url.port
        with socket.create_connection((HOST, port), timeout=0.2) as connection:
            started = time.monotonic()
            connection.sendall(HALF + b"X: ")
            answer = b""
            while not answer and time.monotonic() - started < 20:
                connection.sendall(b"x")
                with suppress(TimeoutError):
                    answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < HEADER_SECONDS + 3


def test_others_get_in_where_half_open_connections_take_all_files(tmp_path: Path) -> None:
    with served(tmp_path, *FEW_FILES) as ledger, half_open(ledger, HALF):
        time.sleep(2)
        stopped, statuses = Event(), []

        def ask() -> None:
            while not stopped.is_set():
                with socket.create_connection((HOST, ledger.client.base_url.port), 10) as one:
                    one.sendall(WHOLE)
                    statuses.append(one.recv(4096)[:12])

        thread = Thread(target=ask)
        thread.start()
        time.sleep(3)
        stopped.set()
        thread.join(30)
        log = ledger.log.read_text()
    print(
        f"\n{len(statuses)} requests by new connections, {statuses.count(b'HTTP/1.1 200')} served"
    )
    assert len(statuses) > 20
    assert set(statuses) == {b"HTTP/1.1 200"}
    assert 1 <= log.count("APP_SERVER_MAX_CONNECTIONS") <= 3
    assert "Traceback" not in log
