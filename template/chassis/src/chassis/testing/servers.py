"""The service in a process of its own, as its command starts it."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Client, TransportError

# How long a start may take, and a stop.
PATIENCE_SECONDS = 60


class LiveServer:
    """A server that runs: its address, its process and its log."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
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
        return self.process.wait(PATIENCE_SECONDS)

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


@contextmanager
def start_live_server(
    package: str, variables: Mapping[str, str], folder: Path
) -> Iterator[LiveServer]:
    """Run `python -m my_service serve` on a free port; its log is in a file of the folder."""
    port, log = _find_free_port(), folder / "server.log"
    command = [sys.executable, "-m", package, "serve", "--host=127.0.0.1", f"--port={port}"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=variables, stdout=output, stderr=output) as process,
    ):
        server = LiveServer(f"http://127.0.0.1:{port}", process, log)
        try:
            server.wait_until_ready()
            yield server
            server.stop()
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
