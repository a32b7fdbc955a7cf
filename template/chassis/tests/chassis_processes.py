"""Run the sample service's command, or another's, as a process of its own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chassis_forks import PATIENCE_SECONDS, Fork
from httpx2 import Client, TransportError

import chassis

FOLDERS = (Path(__file__).parent, Path(chassis.__file__).parents[1])


@dataclass(frozen=True)
class Serving:
    """A process that answers, and what it has logged."""

    process: Fork | subprocess.Popen[bytes]
    client: Client
    log: Path

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def serving(
    *arguments: str,
    folder: Path = FOLDERS[0],
    module: str = "chassis_sample",
    **variables: str,
) -> Iterator[Serving]:
    """Run a command of a module that serves; `folder` is where the sample's package is."""
    port = free_port()
    log = Path("server.log").absolute()
    with (
        Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
        Fork(
            *(module, *arguments, "--port", str(port)),
            environment=environment_of_sample(variables, folder),
            output=log,
        ) as process,
    ):
        until(lambda: process.poll() is not None or answers(client))
        assert process.poll() is None, log.read_text()
        yield Serving(process, client, log)


def answers(client: Client) -> bool:
    """Return whether a server accepts connections."""
    try:
        client.get("/livez")
    except TransportError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def has_ipv6() -> bool:
    """Return whether this machine has the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


def environment_of_sample(variables: dict[str, str], folder: Path = FOLDERS[0]) -> dict[str, str]:
    """Return the environment that finds the sample, whatever is installed."""
    folders = os.pathsep.join(str(one) for one in (folder, *FOLDERS))
    return {**os.environ, "PYTHONPATH": folders, **variables}
