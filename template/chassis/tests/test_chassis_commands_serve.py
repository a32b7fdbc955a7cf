"""The server: what it answers with, how a start fails, and how it stops."""

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import pytest
from chassis_forks import Fork
from chassis_processes import (
    answers,
    environment_of_sample,
    free_port,
    has_ipv6,
    serving,
    until,
)
from fastapi import APIRouter, Depends, FastAPI
from httpx2 import Client, TransportError

from chassis import ChassisSettings, create_app, request_limits
from chassis.commands import server_middleware
from chassis.commands.listening import open_sockets
from chassis.commands.serve import Server, run
from chassis.db import get_db_session

# The default limit of a body.
MEBIBYTE = 1024 * 1024
APP = "chassis_sample.main:create_service"


@dataclass(frozen=True)
class Threaded:
    """A server in a thread: it is told to stop by `handle_exit`, as no signal reaches it."""

    server: Server
    thread: Thread
    client: Client

    def handle(self, *signals: signal.Signals) -> None:
        for one in signals:
            self.server.handle_exit(one, None)


@contextmanager
def in_thread(**settings: Any) -> Iterator[Threaded]:
    chosen = ChassisSettings(server_port=free_port(), **settings)
    server = Server(APP, chosen)
    sockets = open_sockets(chosen.server_host, chosen.server_port)
    thread = Thread(target=server.run, args=(sockets,))
    with Client(base_url=f"http://127.0.0.1:{chosen.server_port}", timeout=30) as client:
        thread.start()
        try:
            until(lambda: server.started)
            yield Threaded(server, thread, client)
        finally:
            server.should_exit = True
            thread.join(30)


def test_a_response_names_no_server_and_leaves_no_access_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with in_thread() as running:
        response = running.client.get("/process")
    assert response.status_code == 200
    assert "server" not in response.headers
    assert "uvicorn.access" not in {record.name for record in caplog.records}


def test_what_the_start_made_is_not_searched_for_garbage_while_requests_wait() -> None:
    with serving("serve") as running:
        assert running.client.get("/process").json()["frozen"] > 50_000


@pytest.mark.parametrize(
    ("trusted", "client"), [("127.0.0.0/8", "203.0.113.7"), ("10.0.0.0/8, ::1", "127.0.0.1")]
)
def test_a_forwarded_address_counts_from_a_trusted_proxy_only(trusted: str, client: str) -> None:
    with in_thread(server_trusted_proxies=trusted) as running:
        headers = {"X-Forwarded-For": "203.0.113.7"}
        assert running.client.get("/process", headers=headers).json()["client"] == client


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/livez", {"Content-Length": str(4 * MEBIBYTE)}, 413),
        ("/echo", {"Transfer-Encoding": "chunked"}, 413),
        ("/nothing", {"Content-Length": str(MEBIBYTE)}, 404),
    ],
)
def test_a_client_that_sends_a_whole_body_before_it_reads_gets_its_answer(
    path: str, headers: dict[str, str], status: int
) -> None:
    """As urllib does it, which asks for the connection to be closed as well."""
    chunked = "Transfer-Encoding" in headers
    size = 4 * MEBIBYTE if chunked else int(headers["Content-Length"])
    parts = [b"x" * 65536] * (size // 65536)
    with in_thread() as running:
        for _ in range(5):
            with closing(HTTPConnection("127.0.0.1", running.client.base_url.port)) as connection:
                closed = {**headers, "Connection": "close"}
                connection.request("POST", path, parts, closed, encode_chunked=chunked)
                assert connection.getresponse().status == status


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n"),
        ({"Expect": "100-continue", "Content-Length": "5"}, None),
    ],
)
def test_an_answer_to_a_body_that_is_read_or_held_back_ends_at_once(
    headers: dict[str, str], body: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_HTTP_MAX_BODY_BYTES", "4")
    with in_thread() as running:
        started = time.monotonic()
        with closing(HTTPConnection("127.0.0.1", running.client.base_url.port)) as connection:
            connection.request("POST", "/echo", body, headers)
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("connection")) == (413, "close")
            until(lambda: not running.server.server_state.connections)
        assert time.monotonic() - started < 5


def test_sigterm_is_announced_before_the_server_stops() -> None:
    with (
        serving("serve", APP_SERVER_DRAIN_SECONDS="0.5") as running,
        ThreadPoolExecutor() as pool,
    ):
        running.client.get("/livez")
        slow = pool.submit(running.client.get, "/wait?seconds=1.5")
        until(lambda: "the wait has begun" in running.log.read_text())
        running.process.send_signal(signal.SIGTERM)
        until(lambda: "draining for 0.5 seconds" in running.log.read_text())

        refusal = running.client.get("/readyz")
        assert (refusal.status_code, refusal.headers["connection"]) == (503, "close")
        assert refusal.headers["content-type"] == "application/problem+json"
        assert refusal.json()["detail"] == "The service is stopping."
        other = running.client.get("/process")
        assert (other.status_code, other.headers["connection"]) == (200, "close")

        until(lambda: not answers(running.client))
        assert running.process.poll() is None
        assert slow.result().status_code == 200
        assert running.process.wait(30) == 0
        log = running.log.read_text()
        assert log.index("the wait is over") < log.index("the lifespan has ended")


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)])
def test_a_second_signal_or_ctrl_c_skips_the_drain(signals: tuple[signal.Signals, ...]) -> None:
    with in_thread(server_drain_seconds=60) as running:
        running.handle(*signals)
        running.thread.join(10)
        assert not running.thread.is_alive()


@pytest.fixture
def heeded_hangup() -> Iterator[None]:
    """Undo `nohup`, by which the tests may have been started: processes inherit it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeded_hangup")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_hangup_is_a_stop_that_finishes_requests(workers: int) -> None:
    with (
        serving("serve", "--workers", str(workers), APP_SERVER_DRAIN_SECONDS="0.5") as running,
        ThreadPoolExecutor() as pool,
    ):
        until(lambda: running.log.read_text().count("startup complete") == workers)
        slow = pool.submit(running.client.get, "/wait?seconds=1")
        until(lambda: "the wait has begun" in running.log.read_text())
        # As a terminal does, which signals to all of its processes.
        for worker in re.findall(r"Started server process \[(\d+)\]", running.log.read_text()):
            os.kill(int(worker), signal.SIGHUP)
        if workers > 1:
            time.sleep(0.3)
            assert "draining" not in running.log.read_text()
            running.process.send_signal(signal.SIGHUP)
        assert slow.result().status_code == 200
        assert running.process.wait(30) == 0
        assert running.log.read_text().count("draining for 0.5 seconds") == workers


def test_a_hangup_that_is_ignored_when_the_server_starts_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with serving("serve", APP_SERVER_DRAIN_SECONDS="0.1") as running:
            running.process.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            assert "draining" not in running.log.read_text()
            assert running.stop() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_numbers_of_workers_go_with_them_when_their_supervisor_is_killed(
    tmp_path: Path,
) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    with serving(
        *("serve", "--workers", "2"), APP_METRICS_ENABLED="true", TMPDIR=str(tmp_path)
    ) as running:
        until(lambda: running.log.read_text().count("startup complete") == 2)
        assert list(tmp_path.glob("metrics-*/*.db"))
        running.process.kill()
        until(lambda: not answers(running.client))
        until(lambda: not list(tmp_path.glob("metrics-*")))


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(workers: str) -> None:
    with serving("serve", "--workers", workers, "--host", "::") as running:
        port = running.client.base_url.port
        with Client(base_url=f"http://[::1]:{port}") as client:
            assert client.get("/livez").status_code == 200
        assert running.client.get("/process").json()["client"] in ("127.0.0.1", "::ffff:127.0.0.1")


def test_a_redirect_keeps_the_scheme_and_the_prefix_of_a_trusted_proxy() -> None:
    with serving("serve", APP_SERVER_ROOT_PATH="/orders", APP_SERVER_DRAIN_SECONDS="60") as running:
        headers = {"X-Forwarded-Proto": "https", "Host": "shop.example.com"}
        answer = running.client.get("/livez/", headers=headers)
        assert answer.status_code == 307
        assert answer.headers["location"] == "https://shop.example.com/orders/livez"
        running.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in running.client.get("/readyz").text)


def test_a_request_may_take_longer_than_its_headers() -> None:
    with in_thread(server_header_timeout_seconds=1) as running:
        assert running.client.get("/wait?seconds=3").status_code == 200


def test_a_connection_is_kept_for_longer_than_headers_may_take() -> None:
    halves = b"GET /livez HTTP/1.1\r\n", b"Host: x\r\n\r\n"
    with (
        in_thread(server_header_timeout_seconds=1) as running,
        socket.create_connection(("127.0.0.1", running.client.base_url.port), 10) as connection,
    ):
        for _ in range(2):
            for half in halves:
                connection.sendall(half)
                time.sleep(0.3)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
            time.sleep(2.5)
        connection.sendall(halves[0])
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_proxy_that_keeps_a_connection_for_a_minute_closes_it_first() -> None:
    settings = ChassisSettings(server_port=free_port())
    assert Server(APP, settings).config.timeout_keep_alive > 60


def test_an_idle_connection_is_closed_without_an_answer_that_nobody_asked_for() -> None:
    head, body = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", b"hello"
    with (
        in_thread(server_keep_alive_seconds=1) as running,
        socket.create_connection(("127.0.0.1", running.client.base_url.port), 10) as connection,
    ):
        connection.sendall(head)
        until(lambda: bool(running.server.server_state.tasks))
        connection.sendall(body)
        received = b"".join(iter(partial(connection.recv, 4096), b""))
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_request_that_takes_too_long_is_cut_off() -> None:
    with in_thread(server_graceful_timeout_seconds=1) as running, ThreadPoolExecutor() as pool:
        slow = pool.submit(running.client.get, "/wait?seconds=60")
        until(lambda: bool(running.server.server_state.tasks))
        running.handle(signal.SIGTERM)
        running.thread.join(10)
        assert not running.thread.is_alive()
        assert slow.result().status_code == 503
        assert slow.result().headers["content-type"] == "application/problem+json"


def create_service_that_hangs() -> FastAPI:
    """Have a lifespan that does not end."""

    @asynccontextmanager
    async def hang(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    return create_app(ChassisSettings(), package="sample", routers=[APIRouter(lifespan=hang)])


def test_a_lifespan_that_does_not_end_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_middleware, "LIFESPAN_END_SECONDS", 0.5)
    server = Server(
        f"{__name__}:create_service_that_hangs", ChassisSettings(server_port=free_port())
    )
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    server.handle_exit(signal.SIGTERM, None)
    thread.join(10)
    assert not thread.is_alive()
    assert "the lifespan did not end in 0.5 s and is cancelled\nTraceback" in caplog.text
    assert "in hang" in caplog.text


def test_a_worker_that_dies_is_replaced_and_none_outlives_the_service() -> None:
    with serving("serve", "--workers", "2", APP_SERVER_DRAIN_SECONDS="60") as running:
        until(lambda: running.log.read_text().count("startup complete") == 2)
        with pytest.raises(TransportError):
            running.client.get("/die")
        until(lambda: running.log.read_text().count("startup complete") == 3)

        running.process.send_signal(signal.SIGTERM)
        until(lambda: running.log.read_text().count("draining for 60 seconds") == 2)
        assert running.client.get("/process").status_code == 200
        assert running.stop() == 0
        assert "uvicorn.access" not in running.log.read_text()
        workers = re.findall(r"Started server process \[(\d+)\]", running.log.read_text())
        assert [is_running(int(worker)) for worker in workers] == [False] * 3


def test_a_start_that_fails_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("file").touch()
    monkeypatch.setenv("APP_DATABASE_SQLITE_PATH", "file/app.db")
    settings = ChassisSettings(server_port=free_port())
    server = Server(APP, settings)
    with ThreadPoolExecutor() as pool:
        try:
            exit_code = pool.submit(server.run).exception(timeout=30)
        finally:
            server.should_exit = True
    assert isinstance(exit_code, SystemExit)
    assert exit_code.code == 3
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert errors[0].getMessage().startswith("APP_DATABASE_SQLITE_PATH: ")
    assert errors[1].getMessage() == "Application startup failed. Exiting."
    assert [record.exc_info for record in errors] == [None, None]


def create_service_without_plan() -> FastAPI:
    """Have a dependency that ends too late for its session."""

    async def too_late(session: Annotated[object, Depends(get_db_session)]) -> AsyncIterator[None]:
        yield

    app = create_app(ChassisSettings(), package="sample")
    app.add_api_route("/", lambda: None, dependencies=[Depends(too_late)])
    return app


def create_service_without_limits() -> FastAPI:
    """Have a websocket whose requests are limited."""
    app = create_app(ChassisSettings(), package="sample")
    limits = [request_limits(timeout_seconds=1)]
    app.add_api_websocket_route("/socket", lambda: None, dependencies=limits)
    return app


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("create_service_without_plan", "too_late, a dependency of /, would go on"),
        ("create_service_without_limits", "the websocket /socket has no body and no answer"),
    ],
)
def test_a_route_that_cannot_be_served_as_it_is_is_said_in_one_line(
    caplog: pytest.LogCaptureFixture, factory: str, words: str
) -> None:
    server = Server(f"{__name__}:{factory}", ChassisSettings(server_port=free_port()))
    with pytest.raises(SystemExit):
        server.run()
    first, *_ = [record for record in caplog.records if record.levelname == "ERROR"]
    assert first.getMessage().startswith(words)
    assert first.exc_info is None


def test_a_start_that_fails_in_the_workers_fails_the_service() -> None:
    Path("file").touch()
    environment = environment_of_sample({"APP_DATABASE_SQLITE_PATH": "file/app.db"})
    arguments = ("chassis_sample", "serve", "--workers", "2", "--port", str(free_port()))
    log = Path("server.log")
    with Fork(*arguments, environment=environment, output=log) as process:
        assert process.wait() == 3
    assert "APP_DATABASE_SQLITE_PATH: " in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("factory", "shown"),
    [
        ("main:create_broken_service", "create_broken_service"),
        ("main:create_broken_service_of_wrong_type", "create_broken_service_of_wrong_type"),
        ("main:no_such_factory", "no_such_factory"),
        ("no_such_module:create_service", "no_such_module"),
    ],
)
def test_a_start_that_fails_by_a_bug_shows_where(
    factory: str, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ChassisSettings(server_port=free_port())
    with pytest.raises(SystemExit) as exit_code:
        run(f"chassis_sample.{factory}", settings)
    assert exit_code.value.code == 3
    assert "Traceback" in caplog.text
    assert shown in caplog.text


def test_a_port_that_is_taken_fails_the_service(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SystemExit) as exit_code:
            run(APP, ChassisSettings(server_port=other.getsockname()[1]))
    assert exit_code.value.code == 3
    assert "address already in use" in caplog.text.lower()


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
