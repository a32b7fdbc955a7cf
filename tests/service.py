"""A rendered service, installed and run the way its README says: with uv, as real processes."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx2
from uv import find_uv_bin

from tests.postgres import HOST, free_port

UV = find_uv_bin()
# Where a run of pytest keeps its folders: this run's own are not for those of its services.
TEMPORARY = "PYTEST_DEBUG_TEMPROOT"
STARTS_WITHIN_SECONDS = 30
STOPS_WITHIN_SECONDS = 15
ENDS_WITHIN_SECONDS = 1200


@dataclass(frozen=True)
class Service:
    """A service's folder and the Python that its virtual environment is made with."""

    folder: Path
    python: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The console script, which bears the project's name."""
        project = tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))
        return str(next(iter(project["project"]["scripts"])))

    @property
    def package(self) -> str:
        """The import name of the service's own code."""
        return min(self.folder.glob("src/*/main.py")).parent.name

    def with_environment(self, **variables: str) -> "Service":
        """The same service under more variables."""
        return Service(self.folder, self.python, self.environment | variables)

    def uv(self, *arguments: str, folder: str = ".") -> "Finished":
        """Run uv in the service's folder, or one below it."""
        return Finished.of([UV, *arguments], self.folder / folder, self.variables())

    def run(self, *command: str) -> "Finished":
        """Run a command in the service's environment: `uv run …`."""
        return self.uv("run", *command)

    def cli(self, *arguments: str) -> "Finished":
        """Run the service's own console script."""
        return self.run(self.name, *arguments)

    def install(self) -> "Service":
        """Lock and install the service; the lock stays untracked by the template."""
        self.uv("sync", "--quiet").check()
        self.take_bytecode()
        return self

    def take_bytecode(self) -> None:
        """Copy what is compiled of packages here: uv put the same files there, as old as these."""
        here = Path(sysconfig.get_path("purelib"))
        there = self.folder / ".venv" / here.relative_to(sys.prefix)
        for file in here.rglob("*.pyc"):
            copy = there / file.relative_to(here)
            if copy.parents[1].is_dir():
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)

    @contextmanager
    def serve(self, *options: str) -> Iterator[httpx2.Client]:
        """Serve on a free port until the block ends, then stop by SIGTERM, as a platform does."""
        port = free_port()
        command = [UV, "run", self.name, "serve", "--port", str(port), *options]
        log = self.folder.parent / f"{self.folder.name}-{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.variables(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                url = f"http://{HOST}:{port}"
                with httpx2.Client(base_url=url, trust_env=False, verify=False) as client:
                    wait_until_it_answers(client, process, log)
                    yield client
            finally:
                stop(process, log)

    def variables(self) -> dict[str, str]:
        """The environment of the service's processes."""
        inherited = {name: value for name, value in os.environ.items() if name != TEMPORARY}
        return inherited | {"UV_PYTHON": str(self.python)} | self.environment


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and all it said."""

    command: str
    code: int
    output: str

    @classmethod
    def of(cls, command: list[str], folder: Path, variables: dict[str, str]) -> "Finished":
        """Run a command to its end; one that does not come to it is killed, and fails the test."""
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=ENDS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"`{' '.join(command)}` does not end:\n{output}") from None
        return cls(" ".join(command), process.returncode, output)

    def check(self) -> str:
        """Return what it said, or fail with it."""
        assert self.code == 0, f"`{self.command}` exited {self.code}:\n{self.output}"
        return self.output


class Process(Protocol):
    """A process, however it was started."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""


def wait_until_it_answers(client: httpx2.Client, process: Process, log: Path) -> None:
    """Wait for the first answer of a server, or fail with its log."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.get("/livez")
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the service does not answer:\n{log.read_text()}")


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """End a server by SIGTERM; one that does not obey is killed, and fails the test."""
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOPS_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"SIGTERM did not stop the service:\n{log.read_text()}") from None
    assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM), f"exit {code}:\n{log.read_text()}"
