"""The bank: a service of the tests' own, run as its users run it, and clients that hurry it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import uuid4

import httpx2

from tests.postgres import HOST, free_port
from tests.service import wait_until_it_answers

from .forks import Fork

SERVICES = Path(__file__).parent / "services"
COMMAND = (sys.executable, "-m", "bank")
ANSWERS_WITHIN_SECONDS = 60
REVISION = '''"""{name}"""

import time

import sqlalchemy as sa
from alembic import op

revision = "{name}"
down_revision = "{after}"


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
'''


Process = Fork | subprocess.Popen[bytes]


@dataclass(frozen=True)
class Bank:
    """A database's URL and a folder to run in; `environment` is set besides."""

    url: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    services: Path = SERVICES

    def set(self, **variables: str) -> "Bank":
        """The same service with more variables."""
        return replace(self, environment=self.environment | variables)

    def copied(self) -> "Bank":
        """The same service with a source of its own, to add revisions to."""
        services = self.folder / "services"
        shutil.copytree(self.services, services, ignore=shutil.ignore_patterns("__pycache__"))
        return replace(self, services=services)

    @property
    def revisions(self) -> Path:
        """The folder of the migrations."""
        return self.services / "bank" / "migrations" / "versions"

    def add_revision(
        self, name: str, upgrade: str, downgrade: str = "pass", after: str = "1"
    ) -> None:
        """Add a migration to a copy."""
        script = REVISION.format(name=name, after=after, upgrade=upgrade, downgrade=downgrade)
        (self.revisions / f"{name}.py").write_text(script)

    def run(
        self, *arguments: str, together: Barrier | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the service to its end, with others where there is a barrier."""
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
            output = Path(said.name)
            fork = Fork("bank", arguments, self.variables(), self.folder, output, together)
            code = fork.wait()
            return subprocess.CompletedProcess(arguments, code, said.read())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command of the service; what it says goes to one pipe."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.variables(),
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def migrate(self) -> "Bank":
        """Make the tables."""
        done = self.run("migrate")
        assert done.returncode == 0, done.stdout
        return self

    @contextmanager
    def serving(self, *options: str, under: tuple[str, ...] = ()) -> Iterator["Serving"]:
        """Serve until the block ends, by another command where one is given."""
        port, log = free_port(), self.folder / f"bank-{uuid4().hex[:8]}.log"
        process = self._serve(under, ("serve", "--port", str(port), *options), log)
        try:
            url = f"http://{HOST}:{port}"
            with httpx2.Client(base_url=url, trust_env=False, verify=False) as client:
                wait_until_it_answers(client, process, log)
            yield Serving(process, url, log)
        finally:
            process.kill()
            process.wait()

    def _serve(self, under: tuple[str, ...], arguments: tuple[str, ...], log: Path) -> Process:
        if not under:
            return Fork("bank", arguments, self.variables(), self.folder, log)
        with log.open("wb") as output:
            return subprocess.Popen(
                [*under, *COMMAND, *arguments],
                env=self.variables(),
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def variables(self) -> dict[str, str]:
        """The environment of the service's processes."""
        own = {
            "PYTHONPATH": str(self.services),
            "APP_DATABASE_URL": self.url,
            "APP_SECRETS_DIR": os.devnull,
        }
        return os.environ | own | self.environment


@dataclass(frozen=True)
class Serving:
    """A process that serves, and its log."""

    process: Process
    url: str
    log: Path

    def kill(self) -> None:
        """End the process as nothing can prevent."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Give a client that opens as many connections as it is asked for."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx2.Timeout(ANSWERS_WITHIN_SECONDS)
        # Without TLS there is nothing to verify, and the authorities take long to read.
        async with httpx2.AsyncClient(
            base_url=self.url, timeout=timeout, limits=limits, trust_env=False, verify=False
        ) as client:
            yield client

    async def get(self, path: str) -> httpx2.Response:
        """Ask once, by a connection of its own."""
        async with self.client() as client:
            return await client.get(path)


@dataclass
class Writers:
    """Clients that each write one entry after the other; what was acknowledged, and each answer."""

    path: str = "/entries"
    acknowledged: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    failures: int = 0

    @asynccontextmanager
    async def writing(self, service: Serving, clients: int = 8) -> AsyncIterator[None]:
        """Write by several clients until the block ends."""
        async with service.client() as client:
            tasks = [asyncio.create_task(self._write(client)) for _ in range(clients)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, client: httpx2.AsyncClient) -> None:
        while True:
            name = uuid4().hex
            try:
                response = await client.post(f"{self.path}/{name}")
            except httpx2.TransportError:
                self.failures += 1
                await asyncio.sleep(0.02)
                continue
            self.answers[response.status_code] += 1
            if response.status_code == 201:
                self.acknowledged.append(name)
            else:
                await asyncio.sleep(0.02)


async def lost(service: Serving, writers: Writers) -> set[str]:
    """Name what was acknowledged and is not there."""
    kept = (await service.get("/entries")).json()
    return set(writers.acknowledged) - set(kept)
