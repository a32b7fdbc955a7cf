"""Several containers of one service: they start together, and are replaced under load."""

import csv
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.containers import Container, Engine, name_of, until
from tests.image_source import break_migrations, package_of
from tests.postgres import HOST, Postgres, free_port
from tests.scale import FULL

REPLICAS = 3
CLIENTS = 4
LOAD_SECONDS = 20 if FULL else 0
# The image's own, or no longer than the load balancer needs to see it.
DRAIN = {} if FULL else {"APP_SERVER_DRAIN_SECONDS": "2"}
NO_DRAIN = {"APP_SERVER_DRAIN_SECONDS": "0"}

BALANCER = """
global
    stats socket {folder}/stats
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    # A request that finds nobody fails here, and is not tried again.
    retries 0
frontend public
    bind {address}
    default_backend replicas
backend replicas
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 500ms fall 2 rise 2
{servers}
"""


@pytest.fixture
def variables(postgres: Postgres) -> dict[str, str]:
    """Settings for containers that share an empty PostgreSQL."""
    return postgres.fields(postgres.create_database())


@contextmanager
def replicas(
    runner: Engine, image: str, number: int, **variables: str
) -> Iterator[list[Container]]:
    """Run containers of one image, started at once."""
    with ExitStack() as stack, ThreadPoolExecutor(number) as pool:
        runs = [runner.run(image, **variables) for _ in range(number)]
        yield list(pool.map(stack.enter_context, runs))


def test_replicas_that_start_at_once_migrate_once(
    runner: Engine,
    image: str,
    image_source: Path,
    postgres: Postgres,
    variables: dict[str, str],
) -> None:
    with replicas(runner, image, REPLICAS, RUN_DB_MIGRATIONS="true", **variables) as started:
        for container in started:
            container.until_ready()
        logs = "\n".join(container.log for container in started)
    revisions = {path.name.partition("_")[0] for path in versions(image_source)}
    assert revisions
    assert logs.count("Running upgrade") == len(revisions)
    database = variables["APP_DATABASE_POSTGRES_NAME"]
    assert postgres.execute("SELECT version_num FROM alembic_version", database) in revisions


def versions(folder: Path) -> list[Path]:
    return [*(package_of(folder) / "migrations" / "versions").glob("*.py")]


def test_replicas_with_a_failing_revision_serve_nothing(
    runner: Engine,
    image: str,
    image_source: Path,
    postgres: Postgres,
    variables: dict[str, str],
    tmp_path: Path,
) -> None:
    assert image
    broken = break_migrations(image_source, tmp_path / "broken")
    runner.build(broken).check()
    with replicas(
        runner, name_of(broken), REPLICAS, RUN_DB_MIGRATIONS="true", **variables
    ) as started:
        assert [container.wait() != 0 for container in started] == [True] * REPLICAS
        logs = [container.log for container in started]
    assert ["no_such_column" in log for log in logs] == [True] * REPLICAS
    assert ["Uvicorn running" in log for log in logs] == [False] * REPLICAS
    database = variables["APP_DATABASE_POSTGRES_NAME"]
    assert postgres.execute("SELECT to_regclass('orders') IS NULL", database) == "t"


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_replicas_are_replaced_without_a_failed_request(
    runner: Engine, image: str, postgres: Postgres, variables: dict[str, str]
) -> None:
    load = replace_under_load(runner, image, variables | DRAIN)
    assert load.outcomes.keys() == {"200", "201"}
    assert min(load.outcomes.values()) > 50
    written = postgres.execute(
        "SELECT count(*) FROM items", variables["APP_DATABASE_POSTGRES_NAME"]
    )
    assert int(written) == load.outcomes["201"] == len(load.created)


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_replicas_that_do_not_drain_fail_requests(
    runner: Engine, image: str, variables: dict[str, str]
) -> None:
    """The counter-proof: the same load sees failures where the drain is switched off."""
    load = replace_under_load(runner, image, variables | NO_DRAIN)
    assert load.outcomes.keys() > {"200", "201"}


class Load:
    """Clients that write an item and read it, again and again, and note what came of it."""

    def __init__(self, address: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self.created: list[int] = []
        self._address = address
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._work) for _ in range(CLIENTS)]
            try:
                yield
            finally:
                self._over.set()
        for client in clients:
            client.result()

    def _work(self) -> None:
        with httpx2.Client(base_url=self._address, timeout=30, trust_env=False) as client:
            while not self._over.wait(0.1):
                self._write_and_read(client)

    def _write_and_read(self, client: httpx2.Client) -> None:
        item = {"name": "bolt", "quantity": 3, "price": "0.25"}
        written = self._note(client, "POST", "/items", item)
        if written is not None and written.status_code == 201:
            self.created.append(written.json()["id"])
            self._note(client, "GET", f"/items/{written.json()['id']}")

    def _note(
        self, client: httpx2.Client, method: str, path: str, body: dict[str, object] | None = None
    ) -> httpx2.Response | None:
        try:
            response = client.request(method, path, json=body)
        except httpx2.TransportError as error:
            self.outcomes[type(error).__name__] += 1
            return None
        self.outcomes[str(response.status_code)] += 1
        return response


def replace_under_load(runner: Engine, image: str, variables: dict[str, str]) -> Load:
    """Restart two replicas behind a load balancer, one after the other."""
    with (
        replicas(runner, image, 2, RUN_DB_MIGRATIONS="true", **variables) as both,
        # A socket's path may have 100 characters or so: fewer than pytest's folders take.
        tempfile.TemporaryDirectory(prefix="haproxy-") as name,
        balancer([container.until_ready().address for container in both], Path(name)) as address,
    ):
        load = Load(f"http://{address}")
        started = time.monotonic()
        with load.running():
            for container in both:
                time.sleep(1)
                assert container.stop() in (0, 143)
                container.start()
                container.until_ready()
                until(lambda: up(Path(name)) == 2)
            time.sleep(max(1, LOAD_SECONDS - (time.monotonic() - started)))
    print(f"{dict(load.outcomes)} in {time.monotonic() - started:.0f} s")
    return load


@contextmanager
def balancer(servers: list[str], folder: Path) -> Iterator[str]:
    """Run a load balancer that asks its servers whether they are ready."""
    address = f"{HOST}:{free_port()}"
    lines = "\n".join(f"    server {number} {place}" for number, place in enumerate(servers))
    settings = folder / "haproxy.cfg"
    settings.write_text(BALANCER.format(folder=folder, address=address, servers=lines))
    with subprocess.Popen(["haproxy", "-db", "-f", str(settings)]) as process:
        try:
            until(lambda: (folder / "stats").exists() and up(folder) == len(servers))
            yield address
        finally:
            process.kill()


def up(folder: Path) -> int:
    """Count the servers that the load balancer finds ready."""
    with socket.socket(socket.AF_UNIX) as stats:
        stats.connect(str(folder / "stats"))
        stats.sendall(b"show stat\n")
        text = b"".join(iter(lambda: stats.recv(65536), b"")).decode()
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return sum(row["svname"].isdigit() and row["status"] == "UP" for row in rows)
