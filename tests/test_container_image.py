"""The image: what is in it, what is not, and what a change of the code builds anew."""

import os
import re
import shutil
import struct
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.containers import Archive, Engine, Entry, name_of
from tests.image_source import SECRET
from tests.project import tree
from tests.releases import once

MEGABYTES_OVER_THE_BASE = 120
BASE = re.compile(r"^FROM (python:)\$\{PYTHON_VERSION\}(\S*)$", re.MULTILINE)
VERSION = re.compile(r"^ARG PYTHON_VERSION=(\S+)$", re.MULTILINE)
MODULE = re.compile(r"app/\.venv/lib/.*\.py$")
CODE = ("src/", "chassis/src/", "chassis/docker/")
# A proxy that the build is told of and, by the second, does not use.
PROXY = "http://proxy.example.com:3128"
PROXIES = (f"--build-arg=HTTP_PROXY={PROXY}", "--build-arg=NO_PROXY=*")
SOURCES = re.compile(r'(?:registry|url) = "([^"]+)"')
SETTINGS = re.compile(r"(https?|all)_proxy|(pip|uv)_\w*(index|find_links)\w*", re.IGNORECASE)


@pytest.fixture(scope="module")
def base(engine: Engine, image_source: Path) -> list[str]:
    """The layers of the image that the Dockerfile builds on."""
    dockerfile = (image_source / "Dockerfile").read_text(encoding="utf-8")
    version = VERSION.findall(dockerfile)[0]
    return engine.layers(version.join(BASE.findall(dockerfile)[-1]))


@pytest.fixture(scope="module")
def saved(engine: Engine, image: str, shared: Path) -> Archive:
    """The image as a file."""
    return save(engine, image, shared / "image.tar")


@pytest.fixture(scope="module")
def files(saved: Archive, base: list[str]) -> dict[str, Entry]:
    """What the image adds to its base."""
    return saved.files(base)


def save(engine: Engine, image: str, path: Path) -> Archive:
    once(path.with_suffix(".saved"), lambda _: engine.save(image, path))
    return Archive(path)


def size(files: dict[str, Entry]) -> float:
    return sum(len(entry.content) for entry in files.values()) / 1e6


def test_it_is_small(files: dict[str, Entry]) -> None:
    assert size(files) < MEGABYTES_OVER_THE_BASE


def test_it_is_run_as_nobody_in_particular_by_commands_that_need_no_shell(saved: Archive) -> None:
    config = saved.config
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/app/entrypoint.sh", "my-service"]
    assert config["Cmd"] == ["serve"]
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "/app/healthcheck.py"]
    assert list(config["Volumes"]) == ["/app/data"]
    labels = {name.rpartition(".")[2]: text for name, text in config["Labels"].items()}
    assert (
        labels.items()
        >= {
            "title": "my-service",
            "description": "A web service with a database.",
            "revision": "unknown",
        }.items()
    )


def test_it_adds_an_application_and_nothing_else(files: dict[str, Entry]) -> None:
    """No compiler, no uv, no cache: everything is below /app, two users' lists excepted."""
    added = {name.strip("./") for name, entry in files.items() if not entry.info.isdir()}
    outside = {name for name in added if not name.startswith("app/.venv/")}
    assert outside == {"app/entrypoint.sh", "app/healthcheck.py", "etc/group", "etc/passwd"}
    assert not [name for name in added if re.search(r"\.venv/bin/(uvx?|pip.*|pytest|ruff)$", name)]


def test_only_its_data_can_be_written_to(files: dict[str, Entry]) -> None:
    assert files["app/data"].info.isdir()
    mine = {name for name, entry in files.items() if entry.info.uid == 10001}
    assert mine == {"app/data"}


def test_it_holds_no_secret_no_test_and_no_history(
    files: dict[str, Entry], saved: Archive, image_source: Path
) -> None:
    assert SECRET not in saved.history
    assert SECRET not in repr(saved.config)
    assert not [name for name, entry in files.items() if SECRET.encode() in entry.content]
    assert not [name for name in files if re.search(r"/(\.env|\.git$|\.git/)", name)]
    contents = {entry.content for entry in files.values()}
    others = {
        name: content[1:]
        for name, content in tree(image_source).items()
        if not name.startswith(CODE) and content[1:].strip()
    }
    assert {"uv.lock", ".env", "tests/conftest.py", "Dockerfile"} <= others.keys()
    assert not [name for name, content in others.items() if content in contents]


def test_its_bytecode_is_compiled_and_belongs_to_the_code(files: dict[str, Entry]) -> None:
    compiled = dict(bytecode_times(files))
    modules = {name: entry for name, entry in files.items() if MODULE.match(name)}
    assert len(modules) > 500
    stale = [name for name, entry in modules.items() if compiled.get(name) != int(entry.info.mtime)]
    assert stale == []


def bytecode_times(files: dict[str, Entry]) -> list[tuple[str, int]]:
    """Read which modules are compiled, and of which time the compiler found them."""
    pattern = re.compile(r"(.*)/__pycache__/([^/]+)\.cpython-\d+\.pyc$")
    found = ((pattern.match(name), entry.content) for name, entry in files.items())
    return [
        (f"{match[1]}/{match[2]}.py", struct.unpack("<I", content[8:12])[0])
        for match, content in found
        if match
    ]


def test_two_builds_differ_in_times_only_and_know_nothing_of_their_machine(
    engine: Engine,
    image_source: Path,
    files: dict[str, Entry],
    base: list[str],
    tmp_path: Path,
) -> None:
    again = shutil.copytree(image_source, tmp_path / "again", copy_function=shutil.copy)
    tag = f"{name_of(image_source)}-again"
    engine.build(again, "--no-cache", *PROXIES, tag=tag).check()
    archive = save(engine, tag, tmp_path / "again.tar")
    engine.call("rmi", tag).check()
    second = archive.files(base)
    assert fingerprints(second) == fingerprints(files)

    addresses = addresses_of_this_machine(image_source)
    assert len(addresses) > 2
    for address in addresses:
        assert address not in archive.history
        assert address not in repr(archive.config)
        assert not [name for name, entry in second.items() if address.encode() in entry.content]


def fingerprints(files: dict[str, Entry]) -> dict[str, tuple[object, ...]]:
    """Say what each file is; bytecode holds the time of its source."""
    return {name: file.fingerprint for name, file in files.items() if not name.endswith(".pyc")}


def addresses_of_this_machine(folder: Path) -> set[str]:
    """Name the indexes and proxies that were, or might have been, used here."""
    lock = (folder / "uv.lock").read_text(encoding="utf-8")
    indexes = {url for url in SOURCES.findall(lock) if not Path(urlsplit(url).path).suffix}
    hosts = {urlsplit(url).netloc for url in SOURCES.findall(lock)} - {
        urlsplit(url).netloc for url in indexes
    }
    set_here = {value for name, value in os.environ.items() if SETTINGS.fullmatch(name) and value}
    return {urlsplit(PROXY).netloc} | indexes | hosts | set_here


def test_changed_code_is_a_small_layer_on_the_same_dependencies(
    engine: Engine, changed_image: str, saved: Archive, base: list[str], tmp_path: Path
) -> None:
    archive = save(engine, changed_image, tmp_path / "changed.tar")
    files = archive.files(base)
    names = {name.rpartition("/site-packages/")[2]: name for name in files}
    assert archive.layers[files[names["fastapi/__init__.py"]].layer] in saved.layers

    new = {n: file for n, file in files.items() if archive.layers[file.layer] not in saved.layers}
    assert size(new) < 3
    assert b'"changed"' in new[names["chassis/http/health.py"]].content
    assert b"create_slowly" in new[names["my_service/routers/slow.py"]].content
    assert archive.config["Labels"]["org.opencontainers.image.revision"] == "4f2"


def test_without_a_lock_the_build_says_how_to_make_one(
    engine: Engine, image_source: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(image_source, tmp_path / "unlocked")
    (folder / "uv.lock").unlink()
    failed = engine.build(folder)
    assert failed.code != 0
    assert "uv.lock" in failed.output
    assert "`uv lock`" in failed.output


def test_another_python_is_one_argument(engine: Engine, saved: Archive, image_source: Path) -> None:
    """The base's own version, patch release and all: another name of the same image."""
    environment = dict(pair.split("=", 1) for pair in saved.config["Env"])
    version = environment["PYTHON_VERSION"]
    said = engine.build(image_source, f"--build-arg=PYTHON_VERSION={version}").check()
    assert said.count(f"python:{version}-slim") >= 2
