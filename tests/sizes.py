"""Print how large the chassis is, and what it may be: `python -m tests.sizes`.

Everybody may read all of it, so it has to stay readable: a budget that is passed fails a test.
"""

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.repository import ROOT

CHASSIS = ROOT / "template" / "chassis"
PACKAGE = Path("src", "chassis")
Imports = dict[str, set[str]]


@dataclass(frozen=True)
class Room:
    """A folder of modules, or a part of one module, and the lines that it may have.

    A folder's are without those of the folders and the parts in it.
    """

    folder: str
    budget: int
    in_core: bool = True


# Lines as `wc -l` counts them. A budget is lowered when its room got smaller; raising one is a
# decision to be argued in the commit.
ROOMS = (
    Room("src/chassis", 849),
    Room("src/chassis/http", 1862),
    Room("src/chassis/observe", 765),
    Room("src/chassis/db", 2513),
    Room("src/chassis/db/address", 1439),
    Room("src/chassis/db/postgres", 660),
    Room("src/chassis/db/sqlite", 759),
    Room("src/chassis/commands", 2404),
    # These run when a service is deployed, tested or updated: no request waits for them.
    Room("src/chassis/db/migrations", 1569, in_core=False),
    Room("src/chassis/db/copying", 1951, in_core=False),
    # Parts, which only who uses them imports.
    Room("src/chassis/auth", 919, in_core=False),
    Room("src/chassis/db/address/secrets.py", 122, in_core=False),
    Room("src/chassis/db/models.py", 190, in_core=False),
    Room("src/chassis/db/tenants", 351, in_core=False),
    Room("src/chassis/resources.py", 120, in_core=False),
    Room("src/chassis/ssrf", 135, in_core=False),
    Room("src/chassis/webhooks.py", 91, in_core=False),
    Room("src/chassis/tasks.py", 170, in_core=False),
    Room("src/chassis/idempotency", 480, in_core=False),
    Room("src/chassis/jobs", 1749, in_core=False),
    Room("src/chassis/pages", 547, in_core=False),
    # And these on a developer's machine or in CI.
    Room("src/chassis/db/migrations/authoring", 2496, in_core=False),
    Room("src/chassis/db/migrations/linting", 563, in_core=False),
    Room("src/chassis/testing", 1576, in_core=False),
    Room("tools", 650, in_core=False),
    Room("docker", 30, in_core=False),
)
CORE = sum(room.budget for room in ROOMS if room.in_core)
# Of the package: tools and the image have no part in these.
LIMITS = {
    "lines of the largest module": 300,
    "lines of the longest function": 40,
    "lines of the median function": 8,
    "modules in the longest chain of imports": 8,
    "cycles of imports": 0,
}


@dataclass(frozen=True)
class Size:
    """A figure, what it may be at most, and where it is reached."""

    what: str
    figure: int
    budget: int
    where: str = ""

    @property
    def is_over(self) -> bool:
        """Return whether the budget is passed."""
        return self.figure > self.budget

    def __str__(self) -> str:
        mark = "  OVER" if self.is_over else ""
        return f"{self.what:42} {self.figure:6,} of {self.budget:6,}{mark}  {self.where}".rstrip()


def measure_sizes(chassis: Path = CHASSIS) -> list[Size]:
    """Measure all that has a budget: rooms first, then the core, then the limits."""
    lines = [(room, count_room(chassis / room.folder)) for room in ROOMS]
    rooms = [Size(f"lines of {room.folder}", count, room.budget) for room, count in lines]
    core = sum(count for room, count in lines if room.in_core)
    return [*rooms, Size("lines of the core", core, CORE), *measure_limits(chassis / PACKAGE)]


def measure_limits(package: Path) -> list[Size]:
    """Measure the package's modules, functions and imports against the limits."""
    modules = sorted((count_lines(file), name) for name, file in find_modules(package).items())
    functions = sorted(measure_functions(package))
    imports = read_imports(package)
    cycles = find_cycles(imports)
    chain = [] if cycles else find_longest_chain(imports)
    figures = [
        modules[-1],
        functions[-1],
        (round(statistics.median(count for count, _ in functions)), ""),
        (len(chain), " → ".join(name.removeprefix("chassis.") for name in chain)),
        (len(cycles), ", ".join(cycles)),
    ]
    return [
        Size(what, figure, budget, where)
        for (what, budget), (figure, where) in zip(LIMITS.items(), figures, strict=True)
    ]


def find_rooms(chassis: Path = CHASSIS) -> set[str]:
    """Return every folder and part that holds code which services run, or their developers."""
    files = (file for part in ("src", "tools", "docker") for file in (chassis / part).rglob("*.py"))
    parts = {room.folder for room in ROOMS}
    return {
        str(path if path.as_posix() in parts else path.parent)
        for path in (file.relative_to(chassis) for file in files)
    }


def count_room(folder: Path) -> int:
    """Count the lines of a part, or of a folder's modules that are none."""
    if folder.suffix:
        return count_lines(folder)
    parts = tuple(room.folder for room in ROOMS if Path(room.folder).suffix)
    files = (file for file in folder.glob("*.py") if not file.as_posix().endswith(parts))
    return sum(map(count_lines, files))


def count_lines(file: Path) -> int:
    """Count the lines of a file as `wc -l` does."""
    return file.read_bytes().count(b"\n")


def find_modules(package: Path) -> dict[str, Path]:
    """Find the modules of a package by their full names."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


def measure_functions(package: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of each function, its decorators aside, and its name."""
    for name, file in find_modules(package).items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield node.end_lineno - node.lineno + 1, f"{name}.{node.name}"


def read_imports(package: Path) -> Imports:
    """Read which modules of the package each of them imports when it is imported itself."""
    modules = find_modules(package)
    return {name: set(_imported(name, file, modules)) - {name} for name, file in modules.items()}


def _imported(name: str, file: Path, modules: dict[str, Path]) -> Iterator[str]:
    parent = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in _run_at_import(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = parent.split(".")[: len(parent.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            # `from . import errors` imports a module, `from .app import …` a name of one.
            named = (f"{base}.{alias.name}" for alias in node.names)
            targets = (target if target in modules else base for target in named)
            yield from (target for target in targets if target in modules)


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs at import: neither a function's body nor what is there for types only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_at_import(child)


def find_cycles(imports: Imports) -> list[str]:
    """Name the modules that can't be imported without importing themselves."""
    reached = {name: set(targets) for name, targets in imports.items()}
    for through in imports:
        for targets in reached.values():
            if through in targets:
                targets |= reached[through]
    return sorted(name for name, targets in reached.items() if name in targets)


def find_longest_chain(imports: Imports) -> list[str]:
    """Return the longest way from a module down its imports, where no cycle is among them."""
    chains: dict[str, list[str]] = {}

    def descend(name: str) -> list[str]:
        if name not in chains:
            below = max(map(descend, sorted(imports[name])), key=len, default=[])
            chains[name] = [name, *below]
        return chains[name]

    chain = max(map(descend, sorted(imports)), key=len)
    assert all(target in imports[name] for name, target in pairwise(chain))
    return chain


def main() -> int:
    """Print each figure beside its budget; the exit code tells whether one is passed."""
    sizes = measure_sizes()
    print(*sizes, sep="\n")
    return int(any(size.is_over for size in sizes))


if __name__ == "__main__":
    sys.exit(main())
