"""The service in processes of its own, as its command starts them."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from httpx2 import Client, TransportError

if TYPE_CHECKING:
    from . import Service

# How long a start may take, and a stop.
PATIENCE_SECONDS = 60


class ServiceProcess:
    """A command of the service that runs: its process, and what it has written."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """The lines that it has written so far; one that is no JSON has a message only."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) if line.startswith("{") else {"message": line} for line in lines]

    def stop(self) -> int:
        """Stop it as a platform does, by SIGTERM; return its exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends by itself; return its exit code."""
        return self.process.wait(PATIENCE_SECONDS)


class LiveServer(ServiceProcess):
    """A server that runs: its address, its process and its log."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__(process, log)
        self.url = url

    def wait_until_ready(self) -> None:
        """Wait for its first answer; fail the test if it ends instead."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with Client(base_url=self.url) as client:
            while not _is_answered(client):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    texts = (
                        f"{one['message']}\n{one.get('exception', '')}" for one in self.log_lines
                    )
                    pytest.fail("the server did not start:\n" + "".join(texts), pytrace=False)
                time.sleep(0.02)


@pytest.fixture
def live_server(start_live_server: Callable[..., LiveServer]) -> LiveServer:
    """Return a server that the service runs in another process: `url`, `log_lines`."""
    return start_live_server()


@pytest.fixture
def start_live_server(start_command: Callable[..., ServiceProcess]) -> Callable[..., LiveServer]:
    """Return a function that starts a server: `start_live_server(APP_JOBS_IN_SERVER="true")`.

    Its keywords are variables of the environment.
    """

    def start(**variables: str) -> LiveServer:
        port = _find_free_port()
        running = start_command("serve", "--host=127.0.0.1", f"--port={port}", **variables)
        server = LiveServer(f"http://127.0.0.1:{port}", running.process, running._log)
        server.wait_until_ready()
        return server

    return start


@pytest.fixture
def start_command(
    service: "Service[Any]", environ: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., ServiceProcess]]:
    """Yield a function that runs a command of the service as a process: `start_command("work")`.

    Its keywords are variables of the environment. What still runs at the end is stopped.
    """
    numbers = count(1)
    with ExitStack() as stack:

        def start(*arguments: str, **variables: str) -> ServiceProcess:
            log = tmp_path / f"command-{next(numbers)}.log"
            process = _start_process(service.package, arguments, environ | variables, log)
            command = ServiceProcess(stack.enter_context(process), log)
            stack.callback(command.stop)
            return command

        yield start


@contextmanager
def _start_process(
    package: str, arguments: Sequence[str], variables: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", package, *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=variables, stdout=output, stderr=output) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _find_free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _is_answered(client: Client) -> bool:
    try:
        client.get("/livez")
    except TransportError:
        return False
    return True
