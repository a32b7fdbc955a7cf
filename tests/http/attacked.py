"""A running service to attack, and what must hold of it afterwards."""

import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.postgres import HOST, Postgres
from tests.service import Service

ITEM = {"name": "Pencil", "quantity": 3, "price": "1.50"}
SETTLES_WITHIN_SECONDS = 60
LOCK = "BEGIN; LOCK TABLE items IN SHARE MODE; SELECT 'locked';"


@dataclass(frozen=True)
class Attacked:
    """A service and its database: one on a PostgreSQL, or else a SQLite file."""

    service: Service
    postgres: Postgres | None = None
    database: str = ""

    @contextmanager
    def serving(self, **variables: str) -> Iterator["Running"]:
        """Serve with the metrics on until the block ends."""
        service = self.service.with_environment(APP_METRICS_ENABLED="true", **variables)
        with service.serve() as client:
            port = client.base_url.port
            log = service.folder.parent / f"{service.folder.name}-{port}.log"
            yield Running(self, client, log)

    @contextmanager
    def writes_blocked(self) -> Iterator[None]:
        """Let writes wait, and no reads, until the block ends."""
        with self._table_locked() if self.postgres else self._file_locked():
            yield

    def open_transactions(self) -> str:
        """Return the states of PostgreSQL's sessions of the service that are not idle."""
        if self.postgres is None:
            return ""
        return self.postgres.execute(
            "SELECT state, query FROM pg_stat_activity WHERE state <> 'idle' "
            f"AND datname = '{self.database}' AND pid <> pg_backend_pid()"
        )

    @contextmanager
    def _table_locked(self) -> Iterator[None]:
        assert self.postgres is not None
        psql = [str(self.postgres.programs / "psql"), "--no-psqlrc", "--quiet"]
        address = ["-h", str(self.postgres.socket), "-p", str(self.postgres.port), "-U", "postgres"]
        with subprocess.Popen(
            [*psql, *address, "--dbname", self.database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{LOCK}\n")
            process.stdin.flush()
            while "locked" not in (line := process.stdout.readline()):
                assert line, "psql ended"
            yield
            process.communicate("ROLLBACK;\n")

    @contextmanager
    def _file_locked(self) -> Iterator[None]:
        file = self.service.environment["APP_DATABASE_SQLITE_PATH"]
        connection = sqlite3.connect(file, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        finally:
            connection.close()


@dataclass(frozen=True)
class Running:
    """A service that runs, a client of it, and its log."""

    attacked: Attacked
    client: httpx2.Client
    log: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        port = self.client.base_url.port
        assert port is not None
        return port

    def metrics(self, port: int | None = None) -> dict[str, float]:
        """Scrape by a connection of its own: each series and its value."""
        url = f"http://{HOST}:{port or self.port}/metrics"
        response = httpx2.get(url, trust_env=False, verify=False).raise_for_status()
        lines = response.text.splitlines()
        pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {series: float(value) for series, _, value in pairs}

    def lent(self) -> dict[str, float]:
        """Return the connections in use of each pool."""
        return _starting_with("database_pool_checked_out", self.metrics())

    def processes(self) -> list[int]:
        """Name the processes that served, in the order of their starts."""
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.said())]

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def check_that_it_serves(self) -> None:
        """Read and see to its health, as any other client."""
        for path in ("/livez", "/readyz", "/items"):
            assert self.client.get(path).status_code == 200, path

    def check_that_it_is_whole(self, crashes: int = 0) -> None:
        """Check that it lent nothing, waits for nothing, broke nowhere, and serves as before."""
        deadline = time.monotonic() + SETTLES_WITHIN_SECONDS
        while (left := self._left_over()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, left
        self.check_that_it_serves()
        assert self.client.post("/items", json=ITEM).status_code == 201
        errors = [line for line in self.said().splitlines() if _is_error(line)]
        assert not errors, "\n".join(line[-500:] for line in errors[:5])
        assert len(self.processes()) == 1 + crashes

    def _left_over(self) -> dict[str, object]:
        metrics = self.metrics()
        lent = _starting_with("database_pool_checked_out", metrics)
        waiting = _starting_with("database_pool_waiting", metrics)
        assert {*lent.values(), *waiting.values()}, metrics
        left: dict[str, object] = {name: n for name, n in (lent | waiting).items() if n}
        # The scrape is one itself.
        if (requests := metrics["http_requests_in_flight"]) > 1:
            left["requests"] = requests
        if sessions := self.attacked.open_transactions():
            left["sessions"] = sessions
        return left


def _starting_with(name: str, metrics: dict[str, float]) -> dict[str, float]:
    return {series: value for series, value in metrics.items() if series.startswith(name)}


def _is_error(line: str) -> bool:
    return "Traceback" in line or re.search(r'"level": ?"(ERROR|CRITICAL)"', line) is not None
