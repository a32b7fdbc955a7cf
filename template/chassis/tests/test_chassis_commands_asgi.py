"""The application for servers of other makes: it logs as under the chassis's own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chassis_forks import PATIENCE_SECONDS
from chassis_processes import Serving, answers, environment_of_sample, free_port, until
from httpx2 import Client

UVICORN = ("-m", "uvicorn", "chassis_sample.asgi:app")
# As `fastapi run` does it, which imports the application first.
IMPORTED = """
import sys, uvicorn
from chassis_sample.asgi import app
uvicorn.run("chassis_sample.asgi:app", port=int(sys.argv[2]))
"""
OWN_LOGS = {
    "version": 1,
    "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
    "formatters": {"own": {"format": "OWN %(name)s %(message)s"}},
    "root": {"handlers": ["own"], "level": "INFO"},
}


@contextmanager
def serving(*command: str, **variables: str) -> Iterator[Serving]:
    """Run a server with the sample's application, of which nothing is imported before."""
    port = free_port()
    log = Path("server.log").absolute()
    with (
        log.open("wb") as output,
        Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
        subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            env=environment_of_sample(variables),
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            until(lambda: process.poll() is not None or answers(client))
            assert process.poll() is None, log.read_text()
            yield Serving(process, client, log)
        finally:
            process.kill()


def messages(log: Path) -> list[str]:
    """Return the messages of a log, of which each line is JSON."""
    return [json.loads(line)["message"] for line in log.read_text().splitlines()]


def test_every_line_of_uvicorns_command_is_the_chassis() -> None:
    with serving(*UVICORN) as running:
        assert running.client.get("/process?token=secret").json()["greeting"] == "hello"
        running.stop()
        lines = messages(running.log)
    assert any("Uvicorn running on" in line for line in lines)
    assert any(line.startswith("database sqlite") for line in lines)
    assert lines.count("GET /process 200") == 1
    assert "the lifespan has ended" in lines
    assert "token" not in running.log.read_text()


def test_so_is_each_after_the_start_where_the_application_is_imported_first() -> None:
    with serving("-c", IMPORTED) as running:
        running.client.get("/process")
        running.stop()
        text = running.log.read_text()
    assert text.count('"GET /process 200"') == 1
    assert "HTTP/1.1" not in text
    assert json.loads(text[text.index('{"timestamp') :].splitlines()[-1])


def test_logs_that_the_server_was_told_to_write_stay(tmp_path: Path) -> None:
    (tmp_path / "logs.json").write_text(json.dumps(OWN_LOGS))
    with serving(*UVICORN, "--log-config", str(tmp_path / "logs.json")) as running:
        running.client.get("/process")
        running.stop()
        lines = running.log.read_text().splitlines()
    assert all(line.startswith("OWN ") for line in lines)
    assert "OWN chassis.access GET /process 200" in lines


def test_wrong_settings_are_one_message() -> None:
    done = subprocess.run(
        [sys.executable, *UVICORN],
        env=environment_of_sample({"APP_SERVER_PORT": "many", "APP_SERVER_PROT": "1"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Warning: APP_SERVER_PROT is not a setting of this service and is ignored; "
        "did you mean APP_SERVER_PORT?",
        "Error: the settings are not valid",
        "  APP_SERVER_PORT: must be a whole number",
    ]
