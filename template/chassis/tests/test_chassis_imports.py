"""Who may import whom: service → chassis → chassis.db, and nothing the other way."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from itertools import accumulate, chain
from pathlib import Path

import pytest

import chassis

CHASSIS = Path(chassis.__file__).parent
PYPROJECT = CHASSIS.parent.parent / "pyproject.toml"


def imported_modules(root: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Give each module below a folder with the full name of each module that it imports."""
    for file in sorted(folder.rglob("*.py")):
        name = ".".join([root.name, *file.relative_to(root).with_suffix("").parts])
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    yield from ((name, one.name) for one in names)
                case ast.ImportFrom(module=module, names=names, level=level):
                    above = ".".join(name.split(".")[:-level]) if level else ""
                    base = ".".join(filter(None, (above, module)))
                    # `from . import errors` imports a module, `from .app import …` a name of one.
                    yield from ((name, f"{base}.{one.name}") for one in names)


def imports_that_leave_the_database_layer(root: Path) -> list[str]:
    return [
        f"{name} imports {target}"
        for name, target in imported_modules(root, root / "db")
        if target.split(".")[0] == "chassis" and target.split(".")[1:2] != ["db"]
    ]


def imports_of_strangers(root: Path) -> list[str]:
    required = required_distributions()
    installed = packages_distributions().items()
    ours = {"chassis", *sys.stdlib_module_names}
    ours |= {module for module, names in installed if required & set(map(distribution, names))}
    # What is not installed, because of an extra, is told by its name: prometheus-client …
    ours |= {name.replace("-", mark) for name in required for mark in "._"}
    return [
        f"{name} imports {target}"
        for name, target in imported_modules(root, root)
        if ours.isdisjoint(accumulate(target.split("."), "{}.{}".format))
    ]


def required_distributions() -> set[str]:
    """Give what the chassis requires, with its extras, and what that requires in turn."""
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
    """Give the normalised name in a requirement such as `psycopg[binary]>=3.2`."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Give a copy of the chassis's source, to break."""
    return Path(shutil.copytree(CHASSIS, tmp_path / "chassis"))


def test_the_database_layer_imports_nothing_of_the_chassis_outside_itself() -> None:
    assert imports_that_leave_the_database_layer(CHASSIS) == []


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


def test_an_import_of_the_service_is_found(copy: Path) -> None:
    with (copy / "app.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom my_service.models import Item\n")

    assert imports_of_strangers(copy) == ["chassis.app imports my_service.models.Item"]


def test_neither_alembic_nor_its_driver_is_imported_at_start() -> None:
    program = "import sys, chassis, chassis.app, chassis.db; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    loaded = {name.partition(".")[0] for name in finished.stdout.split()}
    assert "chassis" in loaded
    assert loaded.isdisjoint({"alembic", "mako", "psycopg"})
