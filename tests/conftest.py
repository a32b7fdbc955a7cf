"""What the tests share: the template as a release, renders of it, and a PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from copier._main import Worker
from jinja2 import Environment

from tests.containers import Engine, name_of, pick_engine
from tests.image_source import change, prepare
from tests.postgres import Postgres, given_postgres, start_postgres
from tests.project import render
from tests.releases import Releases, keep_few, once, this_and_next, this_one
from tests.repository import FIRST
from tests.scale import CASES_FOR_ONE, SAMPLE
from tests.service import TEMPORARY

Render = Callable[..., Path]
# The folder of the run that a page of the guide is run within.
SHARED = "TEMPLATE_TESTS_SHARED"


def pytest_configure(config: pytest.Config) -> None:
    """Work in a folder that no other run shares, those of services within this one included.

    Each run of pytest closes its folder to other users, and an embedded PostgreSQL is one.
    """
    if not hasattr(config, "workerinput"):
        os.environ[TEMPORARY] = tempfile.mkdtemp(prefix="template-tests-")
        # What mypy knows of packages, which takes it longest, is the same in all services.
        # A page of the guide is run by a pytest within this one, which keeps it, too.
        os.environ.setdefault("MYPY_CACHE_DIR", f"{os.environ[TEMPORARY]}/types")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest: at the end all would wait for it."""
    if SAMPLE:
        left_out = choose_left_out(items)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: not item.name.startswith("test_the_tests_of_the_chassis_pass"))


def choose_left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """Choose all but a few cases of each test; its last case, often the most, is among the few."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [
        item
        for same in cases.values()
        for number, item in enumerate(reversed(same))
        if number % CASES_FOR_ONE
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Leave nothing behind, but what a failed test made."""
    if not hasattr(session.config, "workerinput") and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(os.environ[TEMPORARY], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def compiled_texts() -> Iterator[None]:
    """Compile a text of a template once: Copier does anew for each path, each of its three times.

    The texts of files, which have a place of their own each time, are left alone.
    """
    compiled: dict[tuple[str, ...], Any] = {}
    compile_anew: Callable[..., Any] = Environment.compile

    def compile_once(environment: Environment, source: Any, *arguments: Any, **more: Any) -> Any:
        if arguments or more or not isinstance(source, str):
            return compile_anew(environment, source, *arguments, **more)
        key = (source, *sorted(environment.extensions))
        if key not in compiled:
            compiled[key] = compile_anew(environment, source)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "compile", compile_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def modes_asked_once() -> Iterator[None]:
    """Ask git once in a render whether it heeds modes of files: Copier does anew for each file.

    Only where git does not is there something to do.
    """
    name = "_sync_git_index_executable_bit"
    sync_anew: Callable[..., None] | None = getattr(Worker, name, None)
    if sync_anew is None:
        # An older Copier asks nothing.
        yield
        return

    def sync_where_needed(worker: Worker, path: Path, mode: int) -> None:
        known = vars(worker)
        if "ignores_modes" not in known:
            known["ignores_modes"] = ignores_modes(worker.subproject.local_abspath)
        if known["ignores_modes"]:
            sync_anew(worker, path, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, name, sync_where_needed)
        yield


def ignores_modes(folder: Path) -> bool:
    """Tell whether git does not heed modes in a folder."""
    ask = ["git", "config", "--type=bool", "--get", "core.fileMode"]
    done = subprocess.run(ask, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "false"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the whole run, the same one for each of its workers, and of those within it."""
    if SHARED in os.environ:
        return Path(os.environ[SHARED])
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def template(shared: Path) -> Releases:
    """The work tree as a release."""
    return this_one(shared / "this")


@pytest.fixture(scope="session")
def releases(shared: Path) -> Releases:
    """The work tree as a release, and a made-up next one."""
    return this_and_next(shared / "this-and-next")


@pytest.fixture(scope="session")
def few(shared: Path) -> Releases:
    """The same, with few files of the chassis: where the matter is what Copier does."""
    return this_and_next(shared / "few", keep_few)


@pytest.fixture(scope="session")
def rendered(template: Releases) -> Render:
    """Render with some answers, once for the whole run: for reading only."""

    def render_once(**answers: str | bool) -> Path:
        return template.render(FIRST, answers)

    return render_once


@pytest.fixture
def render_anew(template: Releases, tmp_path: Path) -> Render:
    """Render with some answers into a folder of the test's own."""

    def render_now(folder: str = "service", **answers: str | bool) -> Path:
        return render(template.repository.path, tmp_path / folder, answers, ref=FIRST)

    return render_now


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, one for each worker; a run within it takes the worker's."""
    if (given := given_postgres()) is not None:
        yield given
        return
    with start_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def engine() -> Engine:
    """What builds images here; tests that need it are skipped where there is nothing."""
    return pick_engine()


@pytest.fixture(scope="session")
def runner() -> Engine:
    """What runs containers here; tests that need it are skipped where there is nothing."""
    return pick_engine(to_run=True)


@pytest.fixture(scope="session")
def image_source(rendered: Render, shared: Path) -> Path:
    """A locked service with what a team has beside its code: for reading only."""
    return once(shared / "image-source", lambda folder: prepare(rendered(), folder))


@pytest.fixture(scope="session")
def image(engine: Engine, image_source: Path, shared: Path) -> str:
    """The image of that service, built once for the whole run."""

    def build(_: Path) -> None:
        engine.prune()
        engine.build(image_source).check()

    once(shared / "image", build)
    return name_of(image_source)


@pytest.fixture(scope="session")
def changed_image(engine: Engine, image: str, image_source: Path, shared: Path) -> str:
    """The image after a change of the code, the team's and the chassis's."""
    assert image
    folder = once(shared / "changed-source", lambda folder: change(image_source, folder))
    once(shared / "changed", lambda _: engine.build(folder, "--build-arg=REVISION=4f2").check())
    return name_of(folder)
