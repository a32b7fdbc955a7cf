"""The guide's page of metrics: its own text counts, also in two workers and without a server."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.pages._service import PACKAGE
from tests.postgres import HOST, free_port
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/metrics.md"
PATIENCE_SECONDS = 60


def test_two_workers_answer_with_the_sum(service: Path) -> None:
    port = free_port()
    set_carts = f"import {PACKAGE}.metrics as m; m.CARTS.set(2)\n"
    with (service / "src" / PACKAGE / "main.py").open("a", encoding="utf-8") as main:
        main.write(f"\n{set_carts}")
    command = ["-m", PACKAGE, "serve", "--workers", "2", "--port", str(port)]
    with running(service, command, port) as client:
        for _ in range(8):
            # A connection of its own for each: either worker may take it.
            httpx2.post(f"http://{HOST}:{port}/orders/web", trust_env=False).raise_for_status()
        page = wait_for(client, "carts_open 4.0")
    assert 'orders_placed_total{channel="web"} 8.0' in page
    assert "pid=" not in page


def test_a_process_without_a_server_opens_a_port(service: Path) -> None:
    block = re.search(r"  ```python\n(.*?)  ```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    port = free_port()
    program = "\n".join(line.strip() for line in block[1].splitlines()).replace("9100", str(port))
    program += f"\nimport time, {PACKAGE}.metrics as m; m.CARTS.set(3); time.sleep(60)"
    with running(service, ["-c", program], port) as client:
        assert "carts_open 3.0" in wait_for(client, "carts_open")


@contextmanager
def running(service: Path, arguments: list[str], port: int) -> Iterator[httpx2.Client]:
    """Run Python with the service's code until the block ends."""
    variables = {"PYTHONPATH": "src", "APP_METRICS_ENABLED": "true"}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=service, env=os.environ | variables
    )
    try:
        with httpx2.Client(base_url=f"http://{HOST}:{port}", trust_env=False) as client:
            wait_for(client, "")
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def wait_for(client: httpx2.Client, text: str) -> str:
    """Scrape until the page has a text."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    page = ""
    while time.monotonic() < deadline:
        try:
            page = client.get("/metrics").text
        except httpx2.TransportError:
            page = ""
        if page and text in page:
            return page
        time.sleep(0.1)
    raise AssertionError(f"no {text!r} in:\n{page}")
