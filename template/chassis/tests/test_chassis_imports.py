"""Who may import whom: service → chassis.app → chassis.http, observe → chassis.db.

Chains and cycles of imports are measured in the template's repository, beside its sizes.
"""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from itertools import accumulate, chain
from pathlib import Path

import pytest
from chassis_processes import environment_of_sample

import chassis

CHASSIS = Path(chassis.__file__).parent
# What each room may import beside itself, inside a function too. Only their names export the rest:
# `chassis` gives `create_app` and `create_cli` to who asks for them.
SERVING = {"fields", "http", "observe", "settings"}
MAY_IMPORT: dict[str, set[str]] = {
    "db": set(),
    "fields": {"db"},
    "settings": {"db"},
    "versions": set(),
    "http": {"db", "fields", "observe", "settings"},
    "observe": {"db", "fields", "http", "settings"},
    "app": {"auth", "db", "jobs", "parts", "versions", *SERVING},
    # What is switched on by settings, and imported only then.
    "parts": {"auth", "http", "jobs", "observe", "settings"},
    "auth": {"db", "http", "settings"},
    # A part: nothing imports it but the service.
    "idempotency": {"db", "http"},
    "jobs": {"db", "http", "settings", "tasks"},
    "pages": {"db"},
    "resources": {"http"},
    "ssrf": set(),
    "webhooks": {"jobs", "ssrf"},
    "tasks": {"db", "http", "settings"},
    "commands": {"app", "auth", "db", "jobs", "testing", "versions", *SERVING},
    "testing": {"app", "db", "jobs", *SERVING},
    "": {"app", "commands", *SERVING},
}
PYPROJECT = CHASSIS.parent.parent / "pyproject.toml"


def imported_modules(root: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each module below a folder with the full name of each module that it imports."""
    for file in sorted(folder.rglob("*.py")):
        name = ".".join([root.name, *file.relative_to(root).with_suffix("").parts])
        for node in import_statements(file.read_text(encoding="utf-8")):
            match node:
                case ast.Import(names=names):
                    yield from ((name, one.name) for one in names)
                case ast.ImportFrom(module=module, names=names, level=level):
                    above = ".".join(name.split(".")[:-level]) if level else ""
                    base = ".".join(filter(None, (above, module)))
                    # `from . import errors` imports a module, `from .app import …` a name of one.
                    yield from ((name, f"{base}.{one.name}") for one in names)


@cache
def import_statements(source: str) -> list[ast.AST]:
    """Return them; most sources are asked for in each test."""
    statements = (ast.Import, ast.ImportFrom)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, statements)]


def imports_that_leave_the_database_layer(root: Path) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, target in imported_modules(root, root / "db")
        if target.split(".")[0] == "chassis" and target.split(".")[1:2] != ["db"]
    ]


def imports_in_the_wrong_direction(root: Path) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, target in imported_modules(root, root)
        if target.split(".")[0] == "chassis"
        if room_of(target) not in {room_of(name), "", *MAY_IMPORT[room_of(name)]}
    ]


def room_of(name: str) -> str:
    """Return the folder or module of the chassis that a name is in; its own names are in none."""
    first = [*name.split("."), ""][1]
    is_room = (CHASSIS / first).is_dir() or (CHASSIS / f"{first}.py").is_file()
    return first if is_room and first != "__init__" else ""


def imports_of_strangers(root: Path) -> list[str]:
    required = required_distributions()
    installed = packages_distributions().items()
    ours = {"chassis", *sys.stdlib_module_names}
    ours |= {module for module, names in installed if required & set(map(distribution, names))}
    # What is not installed, because of an extra, is told by its name: prometheus-client …
    ours |= {name.replace("-", mark) for name in required for mark in "._"}
    # pyjwt[crypto]
    ours |= {"jwt", "cryptography"}
    return [
        f"{name} imports {target}"
        for name, target in imported_modules(root, root)
        if ours.isdisjoint(accumulate(target.split("."), "{}.{}".format))
    ]


def required_distributions() -> set[str]:
    """Return what the chassis requires, with its extras, and what that requires in turn."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    pending = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    required: set[str] = set()
    while pending:
        name = distribution(pending.pop())
        if name not in required:
            required.add(name)
            pending += requirements_of(name)
    return required


def requirements_of(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def distribution(requirement: str) -> str:
    """Return the normalised name in a requirement such as `psycopg[binary]>=3.2`."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the chassis's source, to break."""
    return Path(shutil.copytree(CHASSIS, tmp_path / "chassis"))


def test_the_database_layer_imports_nothing_of_the_chassis_outside_itself() -> None:
    assert imports_that_leave_the_database_layer(CHASSIS) == []


def test_no_room_imports_what_stands_above_it() -> None:
    assert imports_in_the_wrong_direction(CHASSIS) == []


def test_every_room_has_its_rule() -> None:
    assert {room_of(name) for name, _ in imported_modules(CHASSIS, CHASSIS)} == MAY_IMPORT.keys()


def test_no_module_imports_the_service_or_what_is_not_required() -> None:
    assert imports_of_strangers(CHASSIS) == []


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("from ..http.problems import Problem", "chassis.http.problems.Problem"),
        ("from ..http import problems", "chassis.http.problems"),
        ("from chassis.settings import ChassisSettings", "chassis.settings.ChassisSettings"),
        ("import chassis.app", "chassis.app"),
        ("def load():\n    from ..app import create_app", "chassis.app.create_app"),
    ],
)
def test_an_import_out_of_the_database_layer_is_found(copy: Path, line: str, target: str) -> None:
    with (copy / "db" / "base.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")

    assert imports_that_leave_the_database_layer(copy) == [f"chassis.db.base imports {target}"]


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("http/problems.py", "from ..app import create_app", "chassis.app.create_app"),
        ("observe/logs.py", "from ..commands import cli", "chassis.commands.cli"),
        ("app.py", "from .testing import Service", "chassis.testing.Service"),
        ("settings.py", "from .http.problems import Problem", "chassis.http.problems.Problem"),
        ("db/base.py", "import chassis.fields", "chassis.fields"),
    ],
)
def test_an_import_upwards_is_found(copy: Path, module: str, line: str, found: str) -> None:
    with (copy / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")

    name = ".".join(["chassis", *Path(module).with_suffix("").parts])
    assert imports_in_the_wrong_direction(copy) == [f"{name} imports {found}"]


def test_an_import_of_the_service_is_found(copy: Path) -> None:
    with (copy / "app.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom my_service.models import Item\n")

    assert imports_of_strangers(copy) == ["chassis.app imports my_service.models.Item"]


# What another database, another command or a part uses. Each costs time at every start, and memory.
NOT_SERVING = {
    *("alembic", "asyncpg", "mako", "psycopg", "sqlalchemy.dialects.postgresql"),
    *("chassis.commands.doctor", "chassis.commands.report", "chassis.commands.supervisor"),
    *("chassis.db.migrations.runner", "chassis.testing", "chassis.auth", "chassis.jobs"),
    *("prometheus_client", "httpx2", "cronsim", "yaml"),
}
CONNECT = """\
import asyncio
from sqlalchemy.orm import Mapped, mapped_column

class Item(chassis.db.Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)

async def connect():
    app = chassis.create_app(ChassisSettings(), package="sample")
    async with app.router.lifespan_context(app):
        await app.state.sessions.read().connection()

asyncio.run(connect())
assert "chassis.db.sqlite.dialects" in sys.modules
"""
SERVE = """\
import threading, time
from chassis.commands.listening import open_sockets

server = chassis.commands.serve.Server("chassis_sample.main:create_service", ChassisSettings())
thread = threading.Thread(target=server.run, args=(open_sockets("127.0.0.1", 0),))
thread.start()
while thread.is_alive() and not server.started:
    time.sleep(0.01)
assert server.started
server.should_exit = True
thread.join()
"""
# What one process does, step by step, and what it has not imported after each of them.
STEPS: dict[str, set[str]] = {
    "import chassis, chassis.app, chassis.db": {"alembic", "mako", "psycopg"},
    "import chassis.commands.cli": {"chassis.idempotency", "chassis.pages"},
    "from chassis import ChassisSettings, create_cli\n"
    "create_cli('a:b', settings=ChassisSettings)": {"chassis.jobs"},
    "import chassis.commands.serve": NOT_SERVING,
    CONNECT: NOT_SERVING,
    SERVE: NOT_SERVING,
    "import chassis.testing": {"chassis.auth", "jwt"},
    "import chassis.auth, chassis.auth.errors": {"chassis.auth.tokens", "cryptography", "jwt"},
}


@cache
def take_steps() -> dict[str, list[str]]:
    """Return the modules that are imported after each step."""
    program = "\n".join(["import sys", *(f"{step}\nprint(*sys.modules)" for step in STEPS)])
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=environment_of_sample({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    return {step: line.split() for step, line in zip(STEPS, lines, strict=True)}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.splitlines()[0])
def test_what_is_not_needed_is_not_imported(step: str) -> None:
    loaded = take_steps()[step]
    assert "chassis.app" in loaded
    assert not [name for name in loaded for one in STEPS[step] if f"{name}.".startswith(f"{one}.")]


COLLECT = """
import chassis, gc, sys
getattr(gc, sys.argv[1])()
found = []
gc.callbacks.append(lambda phase, information: found.append(phase))
from chassis import create_app, create_cli
print(len(found), gc.isenabled(), gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [("enable", "0 True False"), ("disable", "0 False False"), ("freeze", "… True True")],
)
def test_no_garbage_is_searched_for_during_an_import(before: str, after: str) -> None:
    importing = [sys.executable, "-c", COLLECT, before]
    finished = subprocess.run(importing, capture_output=True, text=True, check=True)

    searches, *state = finished.stdout.split()
    if before == "freeze":  # Whoever froze objects has a way of their own: it is left alone.
        assert int(searches) > 0
        searches = "…"
    assert [searches, *state] == after.split()


# Print what a file of the chassis does at its import, by way of the standard library.
WATCH = """
import importlib, os, pkgutil, sys, sysconfig, threading
standard, package = sysconfig.get_path("stdlib"), sys.argv[1]

def is_by_the_chassis():
    frame = sys._getframe(2)
    while frame and frame.f_code.co_filename.startswith((standard, "<frozen os")):
        frame = frame.f_back
    return bool(frame) and frame.f_code.co_filename.startswith(package)

class Environment(dict):
    def __getitem__(self, name):
        is_by_the_chassis() and print("reads", name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        is_by_the_chassis() and print("reads", name)
        return super().get(name, default)

def watch(event, arguments):
    if event in OPENING and is_by_the_chassis():
        print("opens", *arguments[:1])

OPENING = {"open", "sqlite3.connect", "socket.connect", "socket.__new__", "subprocess.Popen"}
os.environ = Environment(os.environ)
sys.addaudithook(watch)
sys.path.insert(0, os.path.dirname(package))
import chassis
assert chassis.__path__ == [package], chassis.__path__
for module in pkgutil.walk_packages(chassis.__path__, "chassis."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as missing:  # a package of an extra
        if missing.name.startswith("chassis"):
            raise
threading.active_count() == 1 or print("starts", *threading.enumerate())
"""


def watch_imports(root: Path) -> list[str]:
    """Return what the modules of a copy of the chassis open and read while they are imported."""
    watching = [sys.executable, "-c", WATCH, str(root)]
    finished = subprocess.run(watching, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def test_importing_a_module_opens_nothing_and_reads_no_environment(copy: Path) -> None:
    """But for what is added to one of them: it is found, and nothing else is."""
    doing = {
        "import os; os.getenv('HOST')": "reads HOST",
        "os.environ.get('PORT')": "reads PORT",
        "from pathlib import Path; Path('/dev/null').read_bytes()": "opens /dev/null",
        "import sqlite3; sqlite3.connect(':memory:')": "opens :memory:",
    }
    with (copy / "db" / "statements.py").open("a", encoding="utf-8") as file:
        file.writelines(f"\n{code}" for code in doing)

    assert watch_imports(copy) == list(doing.values())
