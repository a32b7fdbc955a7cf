"""Images and containers of a rendered service, by Docker, podman or buildah."""

import functools
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.postgres import HOST, free_port
from tests.project import tree

PATIENCE_SECONDS = 120
STOPS_WITHIN_SECONDS = 30
# Podman drops HEALTHCHECK without the first, and calls for systemd without the second.
ENVIRONMENT = {"BUILDAH_FORMAT": "docker", "DISABLE_HC_SYSTEMD": "true"}
LABEL = "template-test"
OLD = "2h"
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and all it said."""

    command: str
    code: int
    output: str

    def check(self) -> str:
        """Return what it said, or fail with it."""
        assert self.code == 0, f"`{self.command}` exited {self.code}:\n{self.output}"
        return self.output


def call(*command: str, **variables: str) -> Finished:
    """Run a command to its end."""
    done = subprocess.run(
        command,
        env=os.environ | ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Finished(" ".join(command), done.returncode, done.stdout)


@dataclass(frozen=True)
class Engine:
    """A program that builds images and, unless it is buildah, runs them."""

    program: str

    @property
    def runs(self) -> bool:
        """Whether it runs containers in the background."""
        return self.program != "buildah"

    def call(self, *arguments: str) -> Finished:
        """Run the program to its end."""
        return call(self.program, *arguments)

    def build(self, folder: Path, *options: str, tag: str | None = None) -> Finished:
        """Build the image of a service's folder."""
        layers = () if self.runs else ("--layers",)
        name = ("--tag", tag or name_of(folder), f"--label={LABEL}")
        return self.call("build", *layers, *name, *options, str(folder))

    def prune(self) -> None:
        """Remove what runs of the tests before this one have built."""
        if self.runs:
            ours = ("--filter", f"label={LABEL}", "--filter", f"until={OLD}")
            self.call("image", "prune", "--all", "--force", *ours)

    def layers(self, image: str) -> list[str]:
        """Name the layers of an image by their content, lowest first; one from elsewhere is got."""
        inspect = ("inspect", "--type", "image", image)
        if self.call(*inspect).code:
            self.call("pull", image).check()
        found = json.loads(self.call(*inspect).check())
        layers = found[0]["RootFS"]["Layers"] if self.runs else found["OCIv1"]["rootfs"]["diff_ids"]
        assert isinstance(layers, list)
        return layers

    def save(self, image: str, path: Path) -> None:
        """Write an image to a file."""
        if self.runs:
            self.call("save", "--output", str(path), image).check()
        else:
            self.call("push", image, f"docker-archive:{path}").check()

    @contextmanager
    def run(self, image: str, *options: str, **variables: str) -> Iterator["Container"]:
        """Run an image without rights and on a read-only root, until the block ends."""
        with self.run_command(image, (), *options, **variables) as container:
            yield container

    @contextmanager
    def run_command(
        self, image: str, command: Sequence[str], *options: str, **variables: str
    ) -> Iterator["Container"]:
        """Run another command of an image in the same way."""
        name = f"test-{secrets.token_hex(4)}"
        port = free_port()
        # On the host's network, where the tests' PostgreSQL is; and nowhere else than on loopback.
        place = {"APP_SERVER_HOST": HOST, "PORT": str(port), **variables}
        settings = [f"--env={key}={value}" for key, value in place.items()]
        strict = ("--read-only-tmpfs=false",) if self.program == "podman" else ()
        start = ("run", "--detach", "--name", name, "--network=host", *HARDENED, *strict)
        self.call(*start, *settings, *options, image, *command).check()
        try:
            address = f"http://{HOST}:{port}"
            with httpx2.Client(
                base_url=address, timeout=PATIENCE_SECONDS, trust_env=False
            ) as client:
                yield Container(self, name, client)
        finally:
            self.call("kill", name)
            self.call("rm", "--force", "--volumes", name)

    @contextmanager
    def volume(self) -> Iterator[str]:
        """Make a volume for a container's data, until the block ends."""
        name = f"test-{secrets.token_hex(4)}"
        self.call("volume", "create", name).check()
        try:
            yield f"--volume={name}:/app/data"
        finally:
            self.call("volume", "rm", "--force", name)


@dataclass(frozen=True)
class Container:
    """A container, and a client of the service in it."""

    engine: Engine
    name: str
    client: httpx2.Client

    @property
    def log(self) -> str:
        """All that it said so far."""
        return self.engine.call("logs", self.name).check()

    @property
    def address(self) -> str:
        """The host and port that the service listens on."""
        return self.client.base_url.netloc.decode()

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._state("Running") == "true"

    def execute(self, *command: str) -> Finished:
        """Run a command beside its process."""
        return self.engine.call("exec", self.name, *command)

    def terminate(self) -> None:
        """Send SIGTERM, and wait for nothing."""
        self.engine.call("kill", "--signal=TERM", self.name).check()

    def stop(self) -> int:
        """Stop it as a platform does, by SIGKILL after the grace period, and give the exit code."""
        self.engine.call("stop", "-t", str(STOPS_WITHIN_SECONDS), self.name).check()
        return int(self._state("ExitCode"))

    def start(self) -> None:
        """Start it again."""
        self.engine.call("start", self.name).check()

    def wait(self) -> int:
        """Wait until it ends by itself and give its exit code."""
        until(lambda: not self.running, self._story)
        return int(self._state("ExitCode"))

    def status(self, path: str) -> int | None:
        """Ask for a path; None where nothing answers."""
        try:
            return self.client.get(path).status_code
        except httpx2.TransportError:
            return None

    def until_ready(self) -> "Container":
        """Wait until it can serve."""
        until(lambda: self.status("/readyz") == 200 or not self.running, self._story)
        assert self.running, self._story()
        return self

    def _state(self, field: str) -> str:
        found = self.engine.call("inspect", "--format", f"{{{{.State.{field}}}}}", self.name)
        return found.check().strip()

    def _story(self) -> str:
        return f"the container said:\n{self.log}"


@dataclass(frozen=True)
class Entry:
    """A file of an image; directories have no content."""

    layer: int
    info: tarfile.TarInfo
    content: bytes

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """All that makes it the same file, the time excepted."""
        kind = (self.info.type, self.info.mode, self.info.uid, self.info.gid, self.info.linkname)
        return (*kind, hashlib.sha256(self.content).hexdigest())


class Archive:
    """A saved image: how it is run, how it was made, and the files of each layer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with tarfile.open(path) as archive:
            manifest = json.loads(_read(archive, "manifest.json"))[0]
            self._layers: list[str] = manifest["Layers"]
            self._image: dict[str, Any] = json.loads(_read(archive, manifest["Config"]))

    @property
    def config(self) -> dict[str, Any]:
        """User, command, environment, health check and labels."""
        config = self._image["config"]
        assert isinstance(config, dict)
        return config

    @property
    def layers(self) -> list[str]:
        """The layers' names, which are made of their content, lowest first."""
        return list(self._image["rootfs"]["diff_ids"])

    @property
    def history(self) -> str:
        """The steps that made it, one a line."""
        return "\n".join(step.get("created_by", "") for step in self._image["history"])

    def files(self, above: list[str]) -> dict[str, Entry]:
        """Read what the layers over a base add, by path."""
        assert self.layers[: len(above)] == above, "it is not built on this base"
        found: dict[str, Entry] = {}
        with tarfile.open(self._path) as archive:
            for number, name in enumerate(self._layers):
                if number >= len(above):
                    with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                        found |= {entry.info.name: entry for entry in _entries(layer, number)}
        return found


def _entries(layer: tarfile.TarFile, number: int) -> Iterator[Entry]:
    for info in layer:
        file = layer.extractfile(info) if info.isreg() else None
        yield Entry(number, info, file.read() if file else b"")


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


@functools.cache
def find_engine() -> Engine | None:
    """Find what builds images here; Docker's command alone, without its daemon, builds nothing."""
    for program in ("docker", "podman", "buildah"):
        answers = ("version",) if program == "buildah" else ("info",)
        if shutil.which(program) and call(program, *answers).code == 0:
            return Engine(program)
    return None


def pick_engine(*, to_run: bool = False) -> Engine:
    """Give the engine of this machine, or skip the test."""
    engine = find_engine()
    if engine is None:
        pytest.skip("needs Docker, podman or buildah")
    if to_run and not engine.runs:
        pytest.skip("needs Docker or podman: buildah builds images and does not run services")
    return engine


def name_of(folder: Path) -> str:
    """Name the image of a folder after its content: runs at one time do not meet."""
    content = hashlib.sha256(repr(sorted(tree(folder).items())).encode())
    return f"localhost/template-test:{content.hexdigest()[:12]}"


def until(condition: Callable[[], bool], story: Callable[[], str] = str) -> None:
    """Wait for something to become true, or fail and tell what happened instead."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true; {story()}"
        time.sleep(0.1)
