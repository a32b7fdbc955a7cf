"""What is compared: the rendered service in some variants, and the baselines."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.postgres import USER, Postgres
from tests.service import Service

Backend = Literal["postgres", "sqlite"]

ROWS = 10_000
BASELINES = Path(__file__).parent / "baselines"

# The application settings of "all on"; what is not named has its default.
ALL_ON = {
    "APP_HTTP_ALLOWED_HOSTS": "127.0.0.1,localhost",
    "APP_METRICS_ENABLED": "true",
    "APP_LOG_FORMAT": "json",
}
ALL_OFF = {
    "APP_HTTP_MAX_BODY_BYTES": "0",
    "APP_HTTP_REQUEST_ID": "false",
    "APP_HTTP_REQUEST_TIMEOUT_SECONDS": "0",
    "APP_HTTP_SECURITY_HEADERS": "false",
    "APP_LOG_ACCESS": "false",
}
# What `--variant` understands: "all off" with one part on, or "all on" with one thing changed.
VARIANTS: dict[str, dict[str, str]] = {
    "all-on": ALL_ON,
    "all-off": ALL_OFF,
    "defaults": {},
    "host-check": ALL_OFF | {"APP_HTTP_ALLOWED_HOSTS": "127.0.0.1,localhost"},
    "body-limit": ALL_OFF | {"APP_HTTP_MAX_BODY_BYTES": "1048576"},
    "request-id": ALL_OFF | {"APP_HTTP_REQUEST_ID": "true"},
    "security-headers": ALL_OFF | {"APP_HTTP_SECURITY_HEADERS": "true"},
    "timeout": ALL_OFF | {"APP_HTTP_REQUEST_TIMEOUT_SECONDS": "30"},
    "access-log": ALL_OFF | {"APP_LOG_ACCESS": "true", "APP_LOG_FORMAT": "json"},
    "metrics": ALL_OFF | {"APP_METRICS_ENABLED": "true"},
    "cors": ALL_OFF | {"APP_HTTP_CORS_ORIGINS": "https://app.example.com"},
    "tracing": ALL_OFF | {"APP_TRACING_ENABLED": "true", "OTEL_TRACES_EXPORTER": "none"},
    "ping-every-time": ALL_ON | {"APP_DATABASE_PING_IDLE_SECONDS": "0"},
    "overflow-5+10": ALL_ON
    | {"APP_DATABASE_READ_POOL_SIZE": "5", "APP_DATABASE_MAX_OVERFLOW": "10"},
    "pools-16": ALL_ON | {"APP_DATABASE_POOL_SIZE": "16", "APP_DATABASE_READ_POOL_SIZE": "16"},
    "pools-32": ALL_ON | {"APP_DATABASE_POOL_SIZE": "32", "APP_DATABASE_READ_POOL_SIZE": "32"},
    "stock-pool": ALL_ON | {"PYTHONPATH": str(BASELINES.parent / "stock_pool")},
}


@dataclass(frozen=True)
class Candidate:
    """A server that can be started: its command, waiting for a port, and its environment."""

    name: str
    backend: Backend
    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str]


def baseline(name: str, backend: Backend, service: Service, postgres: Postgres) -> Candidate:
    """Prepare a baseline on a database of its own, in the service's virtual environment."""
    if backend == "postgres":
        database = postgres.create_database()
        columns = "id serial PRIMARY KEY", "price float8 NOT NULL", "created_at timestamptz"
        postgres.execute(_table(*columns), database)
        postgres.execute(f"ALTER TABLE bench_items OWNER TO {USER}", database)
        postgres.execute(_rows("bench_items"), database)
        postgres.execute("ANALYZE bench_items", database)
        environment = {"BENCH_DSN": postgres.url(database)}
    else:
        file = service.folder.parent / f"{name}.db"
        columns = "id INTEGER PRIMARY KEY", "price FLOAT NOT NULL", "created_at DATETIME"
        _sqlite(file, _table(*columns), _rows("bench_items"))
        environment = {"BENCH_SQLITE": str(file)}
    python = service.folder / ".venv" / "bin" / "python"
    options = "--loop uvloop --http httptools --no-access-log --log-level warning --port"
    command = (str(python), "-m", "uvicorn", f"{name.lower()}:app", *options.split())
    return Candidate(name, backend, command, BASELINES, environment)


def variant(name: str, backend: Backend, service: Service, postgres: Postgres) -> Candidate:
    """Prepare the rendered service with some settings, on a migrated database of its own."""
    if backend == "postgres":
        database = postgres.create_database()
        place = {"APP_DATABASE_URL": postgres.url(database)}
    else:
        file = service.folder.parent / f"{name}.db"
        place = {"APP_DATABASE_SQLITE_PATH": str(file)}
    service.with_environment(**place).cli("migrate").check()
    if backend == "postgres":
        postgres.execute(_rows("items"), database)
        postgres.execute("ANALYZE items", database)
    else:
        _sqlite(file, _rows("items"))
    script = service.folder / ".venv" / "bin" / service.name
    command = (str(script), "serve", "--port")
    return Candidate(name, backend, command, service.folder, place | VARIANTS[name])


def _table(key: str, price: str, created_at: str) -> str:
    return (
        f"CREATE TABLE bench_items ({key}, name varchar(120) NOT NULL, quantity int NOT NULL, "
        f"{price}, {created_at} NOT NULL DEFAULT CURRENT_TIMESTAMP)"
    )


def _rows(table: str) -> str:
    numbers = f"SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS}"
    return (
        f"INSERT INTO {table} (name, quantity, price) WITH RECURSIVE numbers (n) AS ({numbers}) "
        "SELECT 'item-' || n, n % 100, n * 1.25 FROM numbers"
    )


def _sqlite(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        for statement in (*statements, "ANALYZE"):
            connection.execute(statement)
    connection.close()
