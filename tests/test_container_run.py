"""A container of the image: what it may do, what it waits for, how it stops, and what it keeps."""

import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socket import SHUT_WR, create_connection, socket

import pytest

from tests.containers import STOPS_WITHIN_SECONDS, Container, Engine, until
from tests.postgres import HOST, Postgres, free_port

ITEM = {"name": "bolt", "quantity": 3, "price": "0.25"}
GONE_BY_SIGTERM = (0, 143)
REQUESTS = 5


@pytest.fixture(scope="module")
def serving(runner: Engine, image: str) -> Iterator[Container]:
    """A container that serves, on SQLite in a volume that is only its own."""
    with runner.run(image, RUN_DB_MIGRATIONS="true") as container:
        yield container.until_ready()


def test_it_serves_without_any_right(serving: Container) -> None:
    assert serving.client.post("/items", json=ITEM).status_code == 201
    assert serving.client.get("/items/1").json().items() >= ITEM.items()

    rights = dict(
        line.split(":\t") for line in serving.execute("cat", "/proc/1/status").output.splitlines()
    )
    assert rights["Uid"].split() == ["10001"] * 4
    assert rights["Gid"].split() == ["10001"] * 4
    assert {rights[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert rights["NoNewPrivs"] == "1"
    assert serving.execute("touch", "/app/data/mine", "/tmp/mine").code == 0
    for place in ("/app", "/app/.venv", "/etc", "/var/tmp", "/usr/local/lib"):
        assert "Read-only file system" in serving.execute("touch", f"{place}/mine").output


def test_a_response_does_not_name_its_server_and_uvicorn_logs_none(serving: Container) -> None:
    response = serving.client.get("/livez")
    assert response.status_code == 200
    assert "server" not in response.headers
    assert "uvicorn.access" not in serving.log


def test_the_health_check_asks_the_server(serving: Container) -> None:
    command = ("python", "/app/healthcheck.py")
    assert serving.execute(*command).code == 0
    elsewhere = serving.execute("env", "APP_SERVER_PORT=1", *command)
    assert elsewhere.code != 0
    assert elsewhere.output.startswith("/livez does not answer: ")
    assert "Traceback" not in elsewhere.output


def test_it_runs_on_what_platforms_set(runner: Engine, image: str, postgres: Postgres) -> None:
    database = postgres.create_database()
    url = postgres.url(database, "postgres")
    with runner.run(image, RUN_DB_MIGRATIONS="true", DATABASE_URL=url) as container:
        assert container.until_ready().client.post("/items", json=ITEM).status_code == 201
    assert postgres.execute("SELECT name FROM items", database) == "bolt"


def test_requests_in_flight_are_finished_and_their_data_is_kept(
    runner: Engine, changed_image: str
) -> None:
    with (
        runner.volume() as volume,
        runner.run(
            changed_image, volume, RUN_DB_MIGRATIONS="true", APP_SERVER_DRAIN_SECONDS="1"
        ) as container,
        ThreadPoolExecutor(REQUESTS) as pool,
    ):
        container.until_ready()
        slow = [
            pool.submit(container.client.post, "/slow", params={"seconds": 4})
            for _ in range(REQUESTS)
        ]
        time.sleep(1)
        started = time.monotonic()
        assert container.stop() in GONE_BY_SIGTERM
        assert 2 < time.monotonic() - started < STOPS_WITHIN_SECONDS
        answers = [request.result() for request in slow]
        assert [answer.status_code for answer in answers] == [201] * REQUESTS

        container.start()
        container.until_ready()
        kept = [container.status(f"/items/{answer.json()}") for answer in answers]
        assert kept == [200] * REQUESTS


def test_it_waits_for_a_database_that_is_down(
    runner: Engine, image: str, postgres: Postgres
) -> None:
    port = free_port()
    address = postgres.fields(postgres.create_database()) | {
        "APP_DATABASE_POSTGRES_PORT": str(port),
        "RUN_DB_MIGRATIONS": "true",
    }
    with runner.run(image, **address) as container:
        until(lambda: "waiting for the database" in container.log)
        assert container.status("/livez") is None
        with relay(port, postgres.port):
            assert container.until_ready().client.post("/items", json=ITEM).status_code == 201


@contextmanager
def relay(port: int, to: int) -> Iterator[None]:
    """Listen on a port, and pass on what comes to another one."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with create_connection((HOST, to)) as server:
                back = threading.Thread(target=pump, args=(server, self.request))
                back.start()
                pump(self.request, server)
                back.join()

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Listener((HOST, port), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield
        listener.shutdown()


def pump(source: socket, sink: socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(SHUT_WR)


def test_it_gives_up_on_a_database_that_stays_down(runner: Engine, image: str) -> None:
    url = f"postgres://app:s3cret@{HOST}:{free_port()}/app"
    limits = {"RUN_DB_MIGRATIONS": "true", "APP_DATABASE_WAIT_SECONDS": "1"}
    with runner.run(image, APP_DATABASE_URL=url, **limits) as container:
        assert container.wait() != 0
        errors = [line for line in container.log.splitlines() if "INFO" not in line]
        assert len(errors) == 1
        assert "can't connect" in errors[0]
        assert "s3cret" not in container.log


def test_it_can_be_stopped_while_it_waits(runner: Engine, image: str) -> None:
    url = f"postgres://app@{HOST}:{free_port()}/app"
    with runner.run(image, APP_DATABASE_URL=url, RUN_DB_MIGRATIONS="true") as container:
        until(lambda: "waiting for the database" in container.log)
        started = time.monotonic()
        assert container.stop() == 143
        assert time.monotonic() - started < STOPS_WITHIN_SECONDS / 2


@pytest.mark.parametrize("migrations", ["true", "false"])
def test_a_data_folder_of_someone_else_is_named(
    runner: Engine, image: str, migrations: str, tmp_path: Path
) -> None:
    theirs = f"--volume={tmp_path}:/app/data"
    with runner.run(image, theirs, RUN_DB_MIGRATIONS=migrations) as container:
        assert container.wait() != 0
        assert "/app/data" in container.log
        assert "10001" in container.log
        assert "Traceback" not in container.log


def test_a_word_that_does_not_say_whether_to_migrate_is_refused(runner: Engine, image: str) -> None:
    with runner.run(image, RUN_DB_MIGRATIONS="yes") as container:
        assert container.wait() == 2
        assert container.log == "RUN_DB_MIGRATIONS is 'yes': set it to true or false\n"


def test_another_command_and_another_program_can_be_run(runner: Engine, image: str) -> None:
    with runner.run_command(image, ["migrate", "--help"]) as container:
        assert container.wait() == 0
        assert "APP_DATABASE_WAIT_SECONDS" in container.log
    with runner.run_command(image, ["-c", "print(6 * 7)"], "--entrypoint=python") as container:
        assert container.wait() == 0
        assert container.log == "42\n"
