"""Real servers that a test may stop, promote and reconfigure: PostgreSQL and PgBouncer."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest

from tests.postgres import HOST, PASSWORD, USER, free_port

from .certificates import Certificates

# Of the same machine, and in no certificate.
OTHER_HOST = "127.0.0.2"
STARTS_WITHIN_SECONDS = 30
ACCESS = f"""
local all all trust
local replication all trust
hostssl all certified {HOST}/32 cert
host all all 127.0.0.0/8 scram-sha-256
"""


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server of its own: its folder, its port, and who may run it."""

    programs: Path
    system_user: str | None
    folder: Path
    port: int

    @property
    def data(self) -> Path:
        """The folder of the data."""
        return self.folder / "data"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of the server's programs, as its user, and give what it prints."""
        command = [str(self.programs / program), *arguments]
        with tempfile.TemporaryFile("w+") as output:
            # A pipe would be kept open by the server that pg_ctl starts.
            done = subprocess.run(
                command, user=self.system_user, stdout=output, stderr=output, cwd="/", check=False
            )
            output.seek(0)
            said = output.read()
        assert done.returncode == 0, f"{program} exited {done.returncode}: {said}"
        return said

    def start(self, *options: str) -> None:
        """Start the server and wait until it answers."""
        given = " ".join((f"-p {self.port} -k {self.folder}", *options))
        log = str(self.folder / "log")
        self.run("pg_ctl", "start", "--wait", "-D", str(self.data), "-o", given, "-l", log)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: smart, fast or immediate."""
        self.run("pg_ctl", "stop", "--wait", "-D", str(self.data), "-m", mode)

    def kill(self) -> None:
        """Kill the server and all its processes, as a crash of its machine does."""
        pid = (self.data / "postmaster.pid").read_text().split()[0]
        processes = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *processes):
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        while any(map(_is_alive, (pid, *processes))):
            time.sleep(0.01)
        # Where nobody reaps the dead, the number in these would look like a server that runs.
        for lock in (self.data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*.lock")):
            lock.unlink()

    def promote(self) -> None:
        """Make the standby a primary."""
        self.run("pg_ctl", "promote", "--wait", "-D", str(self.data))

    def is_running(self) -> bool:
        """Say whether a server runs on the data."""
        command = [str(self.programs / "pg_ctl"), "status", "-D", str(self.data)]
        done = subprocess.run(command, user=self.system_user, capture_output=True, check=False)
        return done.returncode == 0

    def execute(self, *statements: str, database: str = "postgres") -> str:
        """Run statements as the administrator, each by itself, and give their rows."""
        psql = ("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres")
        address = ("-h", str(self.folder), "-p", str(self.port), "-d", database)
        commands = [part for statement in statements for part in ("-c", statement)]
        return self.run(*psql, *address, *commands).strip()

    def create_database(self, template: str = "template1") -> str:
        """Create a database that the service's role owns, and give its name."""
        name = f"test_{secrets.token_hex(4)}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER} TEMPLATE {template}")
        return name

    def url(self, database: str, host: str = HOST) -> str:
        """Write a database's URL as a platform hands it out."""
        return f"postgres://{USER}:{quote(PASSWORD, safe='')}@{host}:{self.port}/{database}"


def find_programs() -> tuple[Path, str | None]:
    """Find Debian's PostgreSQL, which is built with TLS, and the user to run it as."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("needs a PostgreSQL with TLS: apt-get install postgresql")
    return found[-1].parent, "postgres" if os.geteuid() == 0 else None


@contextmanager
def cluster(programs: Path, system_user: str | None) -> Iterator[Cluster]:
    """Make a cluster that is not started yet; stop and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    made = Cluster(programs, system_user, folder, free_port())
    try:
        _give(folder, system_user)
        made.run("initdb", "-D", str(made.data), "-U", "postgres", "-E", "UTF8", "--no-sync")
        (made.data / "pg_hba.conf").write_text(ACCESS)
        yield made
    finally:
        if made.is_running():
            made.stop("immediate")
        shutil.rmtree(folder)


@contextmanager
def started(programs: Path, system_user: str | None, *options: str) -> Iterator[Cluster]:
    """Run a server with the service's role, on two addresses; nothing survives a power failure."""
    with cluster(programs, system_user) as made:
        made.start(f"-h {HOST},{OTHER_HOST}", "-c fsync=off", *options)
        create_role(made)
        yield made


def create_role(server: Cluster) -> None:
    """Create the role that services log in with."""
    server.execute(f"CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}'")


def tls_options(certificates: Certificates, system_user: str | None) -> list[str]:
    """Give the options of a server that offers TLS and knows clients of the authority."""
    _give(certificates.key("server"), system_user)
    files = {
        "ssl_cert_file": certificates.certificate("server"),
        "ssl_key_file": certificates.key("server"),
        "ssl_ca_file": certificates.certificate("ca"),
    }
    return ["-c ssl=on", *(f"-c {name}={file}" for name, file in files.items())]


@contextmanager
def standby_of(primary: Cluster) -> Iterator[Cluster]:
    """Run a standby that streams from a running primary, under the name `standby`."""
    folder = Path(tempfile.mkdtemp(prefix="standby-"))
    made = replace(primary, folder=folder, port=free_port())
    try:
        _give(folder, primary.system_user)
        source = f"host={primary.folder} port={primary.port} user=postgres application_name=standby"
        made.run("pg_basebackup", "-D", str(made.data), "-d", source, "-R", "-c", "fast", "-N")
        made.start(f"-h {HOST}", "-c fsync=off")
        yield made
    finally:
        if made.is_running():
            made.stop("immediate")
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Pooler:
    """A PgBouncer before a cluster."""

    port: int

    def url(self, database: str) -> str:
        """Write a database's URL by way of the pooler."""
        return f"postgres://{USER}:{quote(PASSWORD, safe='')}@{HOST}:{self.port}/{database}"


@contextmanager
def pooler(server: Cluster, **options: str) -> Iterator[Pooler]:
    """Run a PgBouncer with its own defaults but for the options that are given."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    made = Pooler(free_port())
    (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
    given = {
        "listen_addr": HOST,
        "listen_port": made.port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": folder / "users",
        "pidfile": folder / "pid",
        "logfile": folder / "log",
        **options,
    }
    lines = "\n".join(f"{name} = {value}" for name, value in given.items())
    server_address = f"* = host={server.folder} port={server.port}"
    (folder / "ini").write_text(f"[databases]\n{server_address}\n[pgbouncer]\n{lines}\n")
    for path in (folder, *folder.iterdir()):
        _give(path, server.system_user)
    process = subprocess.Popen([program, "-q", str(folder / "ini")], user=server.system_user)
    try:
        wait_for_port(made.port)
        yield made
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


class Relay:
    """Pass on what comes to an address of this machine, until it is told to be silent."""

    def __init__(self, host: str, port: int, to: int) -> None:
        self._listener = socket.create_server((host, port))
        self._to = to
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.silent = False
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut all connections and take no more."""
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((HOST, self._to))
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while received := source.recv(65536):
                if not self.silent:
                    target.sendall(received)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relay(to: int, host: str = HOST, port: int = 0) -> Iterator[Relay]:
    """Put a relay before a port of this machine."""
    made = Relay(host, port, to)
    try:
        yield made
    finally:
        made.close()


def wait_for_port(port: int) -> None:
    """Wait until something listens."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on {port}"
            time.sleep(0.05)


def _is_alive(pid: str) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _give(path: Path, system_user: str | None) -> None:
    if system_user is not None:
        shutil.chown(path, system_user, system_user)
