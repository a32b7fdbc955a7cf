"""The two commands of the README, run as a newcomer does: in a clone, with Python, pip and git."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx2
import pytest

from tests.postgres import HOST
from tests.releases import Releases
from tests.repository import ROOT, git

PORT = 8000
READY_WITHIN_SECONDS = 180


def commands() -> tuple[str, str]:
    """Read the command that scaffolds a service, and the one that runs the tests."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    scaffold, test, *_ = re.findall(r"```sh\n(.*?)\n```", readme, re.DOTALL)
    return scaffold, test


def test_the_first_command_ends_with_a_service_that_answers(
    template: Releases, tmp_path: Path
) -> None:
    skip_where_the_port_is_taken()
    git(tmp_path, "clone", "--quiet", str(template.repository.path), "clone")
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", commands()[0]],
            cwd=tmp_path / "clone",
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: os.environ[name] for name in os.environ if not name.startswith("UV_")},
        )
    try:
        with httpx2.Client(base_url=f"http://{HOST}:{PORT}", trust_env=False) as client:
            wait_until_ready(client, process, log)
            assert client.get("/docs").status_code == 200
            created = client.post("/items", json={"name": "Pencil", "price": "1.50"})
            assert created.status_code == 201
            assert client.get(f"/items/{created.json()['id']}").json() == created.json()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert (tmp_path / "my-service" / "uv.lock").is_file()


def skip_where_the_port_is_taken() -> None:
    """Leave a service alone that someone runs here already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, PORT))
        except OSError:
            pytest.skip(f"port {PORT} is taken")


def wait_until_ready(client: httpx2.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for readiness, or fail with what the command said."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"no service on port {PORT}:\n{log.read_text()}")


def test_ci_runs_the_second_command() -> None:
    """Word for word, but for the interpreter that it is given and a progress bar less."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    written = script.replace('"$python"', "python3").replace(" --quiet pytest", " pytest")
    assert " ".join(commands()[1].split()) in " ".join(written.replace("\\\n", " ").split())
