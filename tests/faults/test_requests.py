"""Requests that go wrong: what others of the same connection see, and what the log says of it."""

import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Barrier

import httpx2
import pytest
from sqlalchemy import create_engine

from tests.postgres import HOST, free_port
from tests.scale import FULL

from .ledger import Entry
from .servers import Cluster
from .service import Ledger, create_ledger_database, served, wait_until

APP = "troubled:create_troubled"
BUGS = 400 if FULL else 60
BALANCER = """
global
    maxconn 200
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    retries 0
    http-reuse always
frontend front
    bind {address}
    default_backend service
backend service
    server one {server} maxconn 4
"""
ONE_CONNECTION = {
    "APP_DATABASE_POOL_SIZE": "1",
    "APP_DATABASE_MAX_OVERFLOW": "0",
    "APP_DATABASE_POOL_TIMEOUT": "0.5",
}
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def troubled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledger]:
    """The service on a database with the ledger's table, by one connection."""
    folder = tmp_path_factory.mktemp("troubled")
    if request.param == "sqlite":
        file = folder / "app.db"
        engine = create_engine(f"sqlite:///{file}")
        Entry.metadata.create_all(engine, tables=[Entry.metadata.tables["entry"]])
        engine.dispose()
        database = {"APP_DATABASE_SQLITE_PATH": str(file)}
    else:
        server: Cluster = request.getfixturevalue("embedded_server")
        database = {"APP_DATABASE_URL": server.url(create_ledger_database(server))}
    with served(folder, app=APP, **database, **ONE_CONNECTION) as service:
        yield service


@pytest.fixture
def log(troubled: Ledger) -> "Log":
    """What the service logs from now on."""
    return Log(troubled.log)


class Log:
    """The lines of warnings and errors from a moment on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._start = file.stat().st_size

    def text(self) -> str:
        """Return everything."""
        return self._file.read_bytes()[self._start :].decode()

    def lines(self) -> list[dict[str, str]]:
        """Return the lines, without those about a machine that has too much to do."""
        lines = [json.loads(line) for line in self.text().splitlines()]
        told = [line for line in lines if line["level"] in ("WARNING", "ERROR", "CRITICAL")]
        return [line for line in told if line["logger"] != "chassis.observe.loop_watch"]


@contextmanager
def balanced(service: Ledger) -> Iterator[str]:
    """Run an HAProxy that gives any request any connection of the service's."""
    address = f"{HOST}:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        settings = Path(folder) / "haproxy.cfg"
        settings.write_text(
            BALANCER.format(address=address, server=f"{HOST}:{service.client.base_url.port}")
        )
        with subprocess.Popen(["haproxy", "-db", "-f", str(settings)]) as process:
            try:
                wait_until(lambda: connects(address), "HAProxy", 30)
                yield f"http://{address}"
            finally:
                process.kill()


def connects(address: str) -> bool:
    """Return whether something listens."""
    with socket.socket() as one:
        return one.connect_ex((HOST, int(address.rpartition(":")[2]))) == 0


def send(url: str, number: int, together: Barrier) -> Counter[int | str]:
    """Send requests and count their answers."""
    answers = Counter[int | str]()
    with httpx2.Client(trust_env=False, timeout=30) as client:
        together.wait(30)
        for _ in range(number):
            try:
                answers[client.get(url).status_code] += 1
            except httpx2.TransportError:
                answers["broken"] += 1
    return answers


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_a_bug_breaks_no_request_of_others_behind_a_balancer(tmp_path: Path) -> None:
    with (
        served(tmp_path, app=APP) as service,
        balanced(service) as url,
        ThreadPoolExecutor() as pool,
    ):
        log, all_of_them = Log(service.log), []
        for path, status in {"/bug": 500, "/mounted/bug": 500, "/bug-in-background": 200}.items():
            together = Barrier(4)
            bugs = pool.submit(send, url + path, BUGS, together)
            others = [pool.submit(send, f"{url}/livez", BUGS, together) for _ in range(3)]
            innocent = sum((other.result() for other in others), Counter[int | str]())
            print(f"{dict(bugs.result())} at {path}; requests of others: {dict(innocent)}")
            all_of_them.append((bugs.result(), innocent) == ({status: BUGS}, {200: BUGS * 3}))
        assert all(all_of_them)
        wait_until(lambda: len(log.lines()) == BUGS * 3, "the last line")
        lines = log.lines()
    assert all(line["exception"].endswith("RuntimeError: a bug") for line in lines)


def test_a_bug_keeps_its_connection_and_one_in_a_stream_closes_it(
    troubled: Ledger, log: Log
) -> None:
    connection = HTTPConnection(HOST, troubled.client.base_url.port)
    connection.connect()
    used = connection.sock
    for _ in range(3):
        connection.request("GET", "/bug")
        assert connection.getresponse().read().startswith(b'{"type":"about:blank"')
        assert connection.sock is used
    connection.close()
    with pytest.raises(httpx2.RemoteProtocolError):
        troubled.client.get("/bug-in-stream")
    wait_until(lambda: len(log.lines()) == 4, "four lines")
    lines = log.lines()
    said = [line["message"] for line in lines]
    assert said == ["GET /bug failed"] * 3 + ["GET /bug-in-stream failed"]
    assert all(line["exception"].count("Traceback") == 1 for line in lines)


def test_a_request_that_outlives_the_grace_is_one_line(tmp_path: Path) -> None:
    with (
        served(tmp_path, app=APP, APP_SERVER_GRACEFUL_TIMEOUT_SECONDS="1") as service,
        ThreadPoolExecutor() as pool,
    ):
        log = Log(service.log)
        paths = ("/wait/60", "/mounted/wait/60", "/stream")
        *waits, stream = [pool.submit(service.client.get, path) for path in paths]
        time.sleep(1)
        service.process.send_signal(signal.SIGTERM)
        assert isinstance(stream.exception(30), httpx2.RemoteProtocolError)
        for answer in (wait.result(30) for wait in waits):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["connection"] == "close"
            assert answer.headers["x-request-id"]
        assert service.process.wait(30) == 0
        first, *others = [line["message"] for line in log.lines()]
    print(first, *others, sep="\n")
    assert first.startswith("Cancel 3 running task(s)")
    assert sorted(others) == [
        "GET /mounted/wait/{seconds}: 503: cancelled before it was answered",
        "GET /stream: cancelled before its answer was complete",
        "GET /wait/{seconds}: 503: cancelled before it was answered",
    ]
    assert "Traceback" not in log.text()


@pytest.mark.parametrize("path", ["/session-in-stream", "/session-in-background"])
def test_a_session_that_is_used_after_its_request_is_one_line(
    troubled: Ledger, log: Log, path: str
) -> None:
    if "stream" in path:
        with pytest.raises(httpx2.RemoteProtocolError):
            troubled.client.get(path)
    else:
        assert troubled.client.get(path).status_code == 200
    wait_until(lambda: bool(log.lines()), "a line")
    [line] = log.lines()
    assert line["message"].startswith(f"GET {path}: it used its session after it had ended")
    assert "session_scope(" in line["message"]
    assert "exception" not in line


@pytest.mark.parametrize("path", ["/statement-fails/{}%0aforged", "/mounted/statement-fails/{}"])
def test_what_a_client_sent_is_in_no_line_about_the_database(
    troubled: Ledger, log: Log, path: str
) -> None:
    answer = troubled.client.get(path.format("s3cr3t%1b[31m"))
    assert answer.status_code == 409
    [line] = log.lines()
    route = path.partition("/{}")[0]
    # The driver's words, which differ.
    words = r"409: .*(UNIQUE constraint failed: entry\.number|\"pk_entry\")"
    assert re.match(rf"GET {route}/\{{token\}}: {words}", line["message"])
    assert "s3cr3t" not in log.text()


def test_a_line_of_text_has_no_control_characters(tmp_path: Path) -> None:
    forged = "s3cr3t%0a2026-01-01%2000:00:00%20ERROR%20forged%1b[31m%e2%80%a8"
    with served(tmp_path, app=APP, APP_LOG_FORMAT="text") as service:
        assert service.client.get(f"/repeat/{forged}").status_code == 500
        wait_until(lambda: "Traceback" in service.log.read_text(), "a traceback")
        log = service.log.read_text()
    assert not CONTROLS.search(log)
    assert r"asked for s3cr3t\n2026-01-01 00:00:00 ERROR forged\x1b[31m\u2028" in log


def test_who_holds_the_connection_is_named_and_who_waits_is_told_what_for(
    troubled: Ledger, log: Log
) -> None:
    with ThreadPoolExecutor() as pool:
        holder = pool.submit(troubled.client.post, "/mounted/hold/2.5")
        time.sleep(1)
        assert troubled.client.put("/entries/1").status_code == 503
        assert holder.result().status_code == 200
    waited, held = (line["message"] for line in log.lines())
    print(waited, held, sep="\n")
    assert waited == "PUT /entries/{number}: 503: no connection free in 0.5 s: 1 of 1 in use"
    times = r"held its transaction for [2-9]\.\d s, 0\.\d s of it in the database: "
    assert re.match(r"POST /mounted/hold/\{seconds\} " + times, held)


def test_a_commit_that_is_forgotten_is_logged_each_time(troubled: Ledger, log: Log) -> None:
    for path in ("/forget", "/mounted/forget", "/forget"):
        assert troubled.client.post(path).status_code == 200
    said = [line["message"] for line in log.lines()]
    found = [re.search(r"troubled\.py:\d+: \w+: (POST \S+) ended", one) for one in said]
    named = [match[1] for match in found if match]
    print(f"{len(named)} of 3 forgotten commits are logged")
    assert named == ["POST /forget", "POST /mounted/forget", "POST /forget"]


def test_a_blocked_event_loop_is_said_while_it_is_and_where(tmp_path: Path) -> None:
    with served(tmp_path, app=APP) as service, ThreadPoolExecutor() as pool:
        blocking = pool.submit(service.client.get, "/block/4")
        place = re.compile(r"the event loop is blocked.*troubled\.py:\d+ \(block\)")
        wait_until(lambda: bool(place.search(service.log.read_text())), "a warning")
        assert not blocking.done()
        assert blocking.result().status_code == 200
        assert len(place.findall(service.log.read_text())) == 1


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ((b"Host: a",), 200),
        ((), 400),
        ((b"Host: a", b"Host: a"), 400),
        ((b"Host: a", b"host: evil.example"), 400),
        ((b"Host:",), 200),
    ],
)
@pytest.mark.parametrize("path", [b"/wait/0", b"/livez", b"http://a/wait/0"])
def test_a_request_names_one_host(
    troubled: Ledger, path: bytes, hosts: tuple[bytes, ...], status: int
) -> None:
    request = b"\r\n".join((b"GET %b HTTP/1.1" % path, *hosts, b"", b""))
    answer = exchange(troubled, request)
    assert int(answer.split()[1]) == status
    assert (b"application/problem+json" in answer) == (status == 400)
    assert (b"connection: close" in answer.lower()) == (status == 400)


def test_a_request_of_http_1_0_needs_no_host(troubled: Ledger) -> None:
    assert exchange(troubled, b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def exchange(service: Ledger, request: bytes) -> bytes:
    """Send bytes and return the answer: what comes within a moment, or to the end."""
    with socket.create_connection((HOST, service.client.base_url.port or 0), timeout=30) as one:
        one.sendall(request)
        answer = one.recv(65536)
        one.settimeout(0.05)
        with suppress(TimeoutError):
            while part := one.recv(65536):
                answer += part
        return answer
