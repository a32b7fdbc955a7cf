"""The compose files, each brought up from a fresh render and its lock, with no .env."""

import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.containers import PATIENCE_SECONDS, Engine, Finished, call, until
from tests.postgres import HOST, free_port

ITEM = {"name": "bolt", "quantity": 3, "price": "0.25"}
PODMAN_COMPOSE = Path(sys.executable).with_name("podman-compose")
VARIANTS = {
    "sqlite": ("compose.yaml",),
    "postgres": ("compose.yaml", "compose.postgres.yaml"),
}


@dataclass(frozen=True)
class Compose:
    """A compose program with some files, and a project that is only the test's own."""

    program: tuple[str, ...]
    files: tuple[Path, ...]
    project: str
    port: int

    def call(self, *arguments: str) -> Finished:
        """Run the program to its end."""
        files = [f"--file={file}" for file in self.files]
        place = {"PUBLISHED_PORT": str(self.port)}
        return call(*self.program, *files, f"--project-name={self.project}", *arguments, **place)

    def ready(self) -> bool:
        """Say whether the service can serve."""
        try:
            answer = httpx2.get(f"{self.address}/readyz", trust_env=False, verify=False)
            return answer.status_code == 200
        except httpx2.TransportError:
            return False

    @property
    def address(self) -> str:
        """Where the service is published."""
        return f"http://{HOST}:{self.port}"


@pytest.fixture(scope="module")
def program(runner: Engine) -> tuple[str, ...]:
    """The program that reads compose files for the engine of this machine."""
    if runner.program == "podman":
        return (str(PODMAN_COMPOSE), "--podman-rm-args=--volumes")
    if call("docker", "compose", "version").code:
        pytest.skip("needs Docker's compose plugin")
    return ("docker", "compose")


@contextmanager
def up(program: tuple[str, ...], files: tuple[Path, ...], runner: Engine) -> Iterator[Compose]:
    """Build and start everything; it is all taken away at the end of the block."""
    compose = Compose(program, files, f"test-{secrets.token_hex(4)}", free_port())
    try:
        compose.call("build").check()
        if runner.program == "podman" and len(files) > 1:
            start_database(compose, runner)
        compose.call("up", "--detach").check()
        until(compose.ready, lambda: compose.call("logs").output)
        yield compose
    finally:
        compose.call("down", "--volumes")


def start_database(compose: Compose, runner: Engine) -> None:
    """Wait for the database, as podman's program does not with every podman."""
    compose.call("up", "--detach", "database").check()
    container = f"{compose.project}_database_1"
    until(lambda: runner.call("healthcheck", "run", container).code == 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_compose_brings_up_a_service_that_is_ready(
    runner: Engine,
    program: tuple[str, ...],
    image: str,
    image_source: Path,
    variant: str,
    tmp_path: Path,
) -> None:
    assert image
    folder = shutil.copytree(image_source, tmp_path / "service")
    (folder / ".env").unlink()
    files = tuple(folder / name for name in VARIANTS[variant])
    with up(program, files, runner) as compose:
        client = httpx2.Client(base_url=compose.address, timeout=PATIENCE_SECONDS, trust_env=False)
        with client:
            assert client.post("/items", json=ITEM).status_code == 201
            assert client.get("/items/1").json().items() >= ITEM.items()
        held = compose.call("exec", "-T", "service", "touch", "/app/mine")
        assert "Read-only file system" in held.output
        databases = compose.call("exec", "-T", "service", "ls", "/app/data").output
        assert ("app.db" in databases) == (variant == "sqlite")
