"""The guide's page of HTTP and observability: its routers, served by a real process."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Client, TransportError

from tests.model_table import lint
from tests.postgres import HOST, free_port
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/observability.md"
FILE = re.compile(r"^`(routers/\w+\.py)`:\n\n```python\n(.*?)^```", re.M | re.S)
MIB = 1024**2
STARTS_WITHIN_SECONDS = 60
MAIN = '''"""A service of the page's routers."""

from chassis import ChassisSettings, create_app, create_cli
from fastapi import FastAPI

from my_service.routers import {names}


def create_service() -> FastAPI:
    """Build the application."""
    routers = [each.router for each in ({names},)]
    return create_app(ChassisSettings(), package=__name__, routers=routers)


if __name__ == "__main__":
    create_cli("my_service.main:create_service", settings=ChassisSettings)()
'''


@dataclass(frozen=True)
class Service:
    """The page's service, running."""

    process: subprocess.Popen[bytes]
    client: Client
    log: Path

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process had so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def lines(self, logger: str) -> list[dict[str, Any]]:
        """Read what one logger wrote."""
        lines = map(json.loads, self.log.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["logger"] == logger]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Write the page's routers into a package and serve it, with a second for each request."""
    folder = tmp_path_factory.mktemp("service")
    files = dict(FILE.findall(PAGE.read_text(encoding="utf-8")))
    assert files.keys() == {"routers/files.py", "routers/orders.py"}
    names = ", ".join(sorted(Path(name).stem for name in files))
    for name, text in {**files, "main.py": MAIN.format(names=names)}.items():
        file = folder / "my_service" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "my_service.main", "serve", "--port", str(port)]
    environment = {"APP_HTTP_REQUEST_TIMEOUT_SECONDS": "1", "APP_LOG_FORMAT": "json"}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=output, stderr=output
        ) as process,
        closing(Client(base_url=f"http://{HOST}:{port}", timeout=60, trust_env=False)) as client,
    ):
        try:
            wait_until_served(client, process)
            yield Service(process, client, log)
        finally:
            process.kill()


def wait_until_served(client: Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.get("/livez")
        except TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the service did not start")


def test_the_code_is_as_the_services_tools_want_it() -> None:
    for _, text in FILE.findall(PAGE.read_text(encoding="utf-8")):
        lint(text)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_file_is_taken_and_is_not_kept_in_memory(service: Service) -> None:
    before = service.peak_bytes
    answer = service.client.post("/files", files={"file": bytes(30 * MIB)})
    assert (answer.status_code, answer.json()) == (201, 30 * MIB)
    assert service.peak_bytes - before < 10 * MIB


def test_a_file_has_more_time_than_the_settings_give(service: Service) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'

    def send_slowly() -> Iterator[bytes]:
        yield head
        for _ in range(4):
            time.sleep(0.5)
            yield bytes(MIB)
        yield b"\r\n--x--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = service.client.post("/files", content=send_slowly(), headers=kind)
    assert (answer.status_code, answer.json()) == (201, 4 * MIB)


def test_a_file_that_is_too_large_is_a_problem(service: Service) -> None:
    for path, limit in (("/files", 100 * MIB), ("/orders/7/shipment", MIB)):
        with closing(HTTPConnection(HOST, service.client.base_url.port)) as connection:
            # It sends no body before the server says that it may.
            headers = {"Content-Length": str(limit + 1), "Expect": "100-continue"}
            connection.request("POST", path, headers=headers)
            answer = connection.getresponse()
            problem = json.load(answer)
        assert (answer.status, problem["detail"]) == (413, f"A body may have {limit} bytes.")


def test_a_field_is_in_the_lines_that_the_page_shows(service: Service) -> None:
    answer = service.client.post("/orders/7/shipment", headers={"X-Request-ID": "abc-1"})
    assert answer.status_code == 204
    block = re.search(
        r'^```json\n(\{"timestamp.*?)^```', PAGE.read_text(encoding="utf-8"), re.M | re.S
    )
    assert block is not None
    shown = json.loads(block[1])
    written = service.lines("my_service.routers.orders")[-1]
    assert written | {"timestamp": shown["timestamp"]} == shown
    assert service.lines("chassis.access")[-1]["order_id"] == 7
