"""The ledger as a process of its own, and clients that keep writing to it."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Event, Lock, Thread

import httpx2
from sqlalchemy import create_engine

from tests.postgres import HOST, USER, free_port

from .ledger import Entry
from .servers import Cluster

# On a machine that does something else as well.
STARTS_WITHIN_SECONDS = 120
SERVE = """
from chassis import ChassisSettings
from chassis.commands.serve import run
run("{app}", ChassisSettings())
"""


def create_ledger_database(server: Cluster) -> str:
    """Create a database with the ledger's table, which the service's role owns."""
    name = server.create_database()
    address = f"host={server.folder}&port={server.port}"
    engine = create_engine(f"postgresql+psycopg://postgres@/{name}?{address}")
    Entry.metadata.create_all(engine, tables=[Entry.metadata.tables["entry"]])
    engine.dispose()
    server.execute(f"ALTER TABLE entry OWNER TO {USER}", database=name)
    return name


@dataclass(frozen=True)
class Ledger:
    """A running service."""

    process: subprocess.Popen[bytes]
    client: httpx2.Client
    log: Path

    def is_running(self) -> bool:
        """Say whether the process that was started still runs."""
        return self.process.poll() is None

    def answers(self) -> bool:
        """Say whether it answers yet; fail where it never will."""
        assert self.is_running(), self.log.read_text()
        try:
            self.client.get("/livez")
        except httpx2.TransportError:
            return False
        return True


@contextmanager
def served(
    folder: Path, *through: str, app: str = "ledger:create_ledger", **variables: str
) -> Iterator[Ledger]:
    """Serve the ledger, or another application, until the block ends.

    `through` is a program that runs the service.
    """
    port, log = free_port(), folder / "ledger.log"
    given = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "APP_SERVER_PORT": str(port),
        "APP_LOG_LEVEL": "DEBUG",
        **variables,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*through, sys.executable, "-c", SERVE.format(app=app)],
            env=given,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    limits = httpx2.Limits(max_connections=50)
    with httpx2.Client(
        base_url=f"http://{HOST}:{port}",
        trust_env=False,
        verify=False,
        timeout=30,
        limits=limits,
    ) as client:
        try:
            made = Ledger(process, client, log)
            wait_until(made.answers, "an answer of the service", STARTS_WITHIN_SECONDS)
            yield made
        finally:
            process.kill()
            process.wait()


@dataclass
class Writers:
    """Clients that write one number after another; what was answered, and when."""

    service: Ledger
    numbers: Iterator[int] = field(default_factory=count)
    acknowledged: dict[int, float] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    stopped: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)

    def write(self) -> None:
        """Write until told to stop."""
        while not self.stopped.is_set():
            with self.lock:
                number = next(self.numbers)
            started = time.monotonic()
            status = self.service.client.put(f"/entries/{number}").status_code
            ended = time.monotonic()
            with self.lock:
                self.answers[status] += 1
                self.slowest = max(self.slowest, ended - started)
                if status == 200:
                    self.acknowledged[number] = ended
            if status != 200:
                time.sleep(0.05)

    def since(self, moment: float) -> int:
        """Count what was acknowledged after a moment."""
        with self.lock:
            return sum(at > moment for at in self.acknowledged.values())


@contextmanager
def writing(service: Ledger, clients: int = 4) -> Iterator[Writers]:
    """Write by several clients until the block ends."""
    made = Writers(service)
    threads = [Thread(target=made.write, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stopped.set()
        for thread in threads:
            thread.join(60)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> float:
    """Wait for something to be so, and give how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - started
