"""The chassis stays as small as it says, and what is too large is found."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import sizes
from tests.sizes import CHASSIS, LIMITS, PACKAGE, ROOMS, measure_sizes

Break = Callable[[Path], None]


def test_nothing_is_larger_than_it_may_be() -> None:
    assert [str(size) for size in measure_sizes() if size.is_over] == []


def test_no_folder_of_code_is_left_out() -> None:
    assert sizes.find_rooms() == {room.folder for room in ROOMS}


def test_the_readme_of_the_chassis_says_what_it_may_be() -> None:
    """Word for word: a service's team reads the figures there."""
    assert [room.in_core for room in ROOMS] == [True] * 8 + [False] * (len(ROOMS) - 8)
    readme = (CHASSIS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w/.]+)` \|.*\| ([\d,]+) \|$", readme, re.MULTILINE))
    assert rows == {room.folder.removeprefix("src/"): f"{room.budget:,}" for room in ROOMS}
    assert "the first eight are the core" in " ".join(readme.split())


def append(module: str, text: str) -> Break:
    def change(package: Path) -> None:
        with (package / module).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def chain_modules(package: Path) -> None:
    """Add a module on top of each other, one more than a chain may have."""
    (package / "link_0.py").write_text("")
    for number in range(LIMITS["modules in the longest chain of imports"]):
        (package / f"link_{number + 1}.py").write_text(f"from . import link_{number}\n")


LONG = "def work():\n" + "    pass\n" * LIMITS["lines of the longest function"]
BROKEN: dict[str, Break] = {
    "lines of src/chassis": append("app.py", "#\n" * 2000),
    "lines of src/chassis/db/sqlite": append("db/sqlite/files.py", "#\n" * 1000),
    "lines of the core": append("db/errors.py", "#\n" * 2000),
    "lines of the largest module": append("db/errors.py", "#\n" * 400),
    "lines of the longest function": append("db/errors.py", LONG),
    "lines of the median function": append("app.py", ("def work():\n" + "    1\n" * 8) * 2000),
    "modules in the longest chain of imports": chain_modules,
    "cycles of imports": append("db/errors.py", "from . import engines\n"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_too_large_is_found(what: str, tmp_path: Path) -> None:
    chassis = Path(shutil.copytree(CHASSIS, tmp_path / "chassis", ignore=leave_out_caches))
    BROKEN[what](chassis / PACKAGE)
    assert what in {size.what for size in measure_sizes(chassis) if size.is_over}


def leave_out_caches(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith((".", "__pycache__", "tests"))]


def test_imports_of_a_function_or_of_types_make_no_chain(tmp_path: Path) -> None:
    package = tmp_path / "chassis"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text("")
    (package / "lazy.py").write_text("def load():\n    from . import deep\n")
    (package / "typed.py").write_text("if TYPE_CHECKING:\n    from . import deep\n")
    (package / "tried.py").write_text("try:\n    from .deep import name\nfinally:\n    pass\n")
    found = sizes.read_imports(package)
    assert {name for name, targets in found.items() if targets} == {"chassis.tried"}
    assert sizes.find_longest_chain(found) == ["chassis.tried", "chassis.deep"]
