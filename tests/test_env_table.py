"""The table of `.env` files and environments: each is read as meant, or says why it is not."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.env_table import MEANT, SHAPES, Shape, outcome_of
from tests.repository import ROOT

DOCKER = ROOT / "template/chassis/docker"
READ = [shape for shape in SHAPES if not shape.says]
REFUSED = [shape for shape in SHAPES if shape.says]


def titled(shapes: list[Shape]) -> list[object]:
    return [pytest.param(shape, id=shape.title) for shape in shapes]


@pytest.mark.parametrize("shape", titled(READ))
def test_what_can_be_read_is_read_as_it_is_meant(shape: Shape) -> None:
    found = outcome_of(shape)
    assert found.settings is not None, found.line
    assert {name: getattr(found.settings, name) for name in shape.reads} == shape.reads
    target = found.settings.database_target
    assert (target.masked, target.url.password) == (MEANT, shape.password)


@pytest.mark.parametrize("shape", titled(READ))
def test_a_warning_is_given_where_something_is_ignored_and_nowhere_else(shape: Shape) -> None:
    warnings = outcome_of(shape).warnings
    assert len(warnings) == bool(shape.warns)
    assert all(shape.warns in warning and "pa55" not in warning for warning in warnings)


@pytest.mark.parametrize("shape", titled(REFUSED))
def test_what_cant_be_read_is_one_line_and_shows_no_value(shape: Shape) -> None:
    found = outcome_of(shape)
    assert found.settings is None
    assert found.line.startswith(shape.says)
    assert "\n" not in found.line
    assert "pa55" not in found.line


def test_there_are_shapes_of_each_kind() -> None:
    assert len(SHAPES) >= 40
    assert len({shape.title for shape in SHAPES}) == len(SHAPES)
    assert len(REFUSED) >= 20


class Alive(http.server.BaseHTTPRequestHandler):
    """Answers any request with 200."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server that is alive."""
    with http.server.HTTPServer(("127.0.0.1", 0), Alive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("service", ["", "tcp://10.0.0.1:80", "tcp://[fd00::1]:80\n"])
def test_the_images_health_check_reads_its_variables_as_the_service_does(
    port: int, service: str
) -> None:
    variables = {"APP_SERVER_PORT": service, "PORT": f"{port}\n", "APP_SERVER_HOST": "0.0.0.0\n"}
    check = [sys.executable, str(DOCKER / "healthcheck.py")]
    subprocess.run(check, env=os.environ | variables, check=True, timeout=10)


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize(
    ("text", "said"), [("false", "serve\n"), ("true", "migrate --wait\nserve\n")]
)
def test_the_images_entrypoint_reads_its_variable_without_a_line_break(
    text: str, said: str, ending: str
) -> None:
    variables = {"RUN_DB_MIGRATIONS": text + ending}
    command = ["sh", str(DOCKER / "entrypoint.sh"), "echo", "serve"]
    done = subprocess.run(
        command, env=os.environ | variables, check=True, capture_output=True, text=True, timeout=10
    )
    assert done.stdout == said
