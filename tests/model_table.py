"""Try model shapes on both engines and print what holds: `python -m tests.model_table`."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.models.shapes import SHAPES, Shape
from tests.models.trial import (
    Databases,
    Package,
    leftovers,
    silence,
    write_package,
)
from tests.postgres import start_postgres

STEPS = (
    *("writes", "lints", "one text", "applies", "stores", "no drift", "down", "up again"),
    "--check",
)
COLUMNS = "{:58} {:9}" + " {:>9}" * len(STEPS)
VARYING = re.compile(r"^(Create Date|Revision ID|Revises):?.*$", re.MULTILINE)


@dataclass
class Row:
    """What held of one shape whose revision was written on one engine."""

    shape: str
    engine: str
    text: str = ""
    results: dict[str, bool] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, where: str = "") -> Iterator[None]:
        """Note whether a step holds; a step that failed on one engine stays failed."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())[:400]
            self.problems.append(f"{name} {where}: {type(error).__name__}: {reason}")
            self.results[name] = False
        else:
            self.results.setdefault(name, True)

    def __str__(self) -> str:
        marks = [{True: "yes", False: "NO", None: "-"}[self.results.get(step)] for step in STEPS]
        return COLUMNS.format(self.shape, self.engine, *marks)


def try_shape(shape: Shape, databases: Databases) -> list[Row]:
    """Generate a shape's revision on each engine and use it on both."""
    rows = []
    for engine in shape.engines:
        row = Row(shape.name, engine)
        with write_package(databases.folder, shape.source) as package:
            with row.step("writes"):
                row.text = package.generate(databases.create(engine), "first")
            if row.text:
                with row.step("lints"):
                    lint(row.text)
                for target in shape.engines:
                    use_revision(row, package, databases, target)
        rows.append(row)
    for row in rows:
        with row.step("one text"):
            assert len({VARYING.sub("", row.text) for row in rows}) == 1, "texts differ"
    return rows


def use_revision(row: Row, package: Package, databases: Databases, target: str) -> None:
    """Upgrade, store and read, compare, downgrade and upgrade again on one engine."""
    settings = databases.create(target)
    with row.step("applies", target):
        package.upgrade(settings)
        with row.step("stores", target):
            package.store_and_read(settings)
        with row.step("no drift", target):
            assert (found := package.drift(settings)) == "", found
        with row.step("down", target):
            package.downgrade(settings)
            assert (left := leftovers(settings)) == set(), left
            with row.step("up again", target):
                package.upgrade(settings)
    if target == row.engine:
        with row.step("--check", target):
            package.check(settings)


def lint(text: str) -> None:
    """Raise ValueError for what ruff says of a revision."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F", "--quiet"]
    command += ["--ignore=F401", "--output-format=concise", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stdout)


@contextmanager
def open_databases() -> Iterator[Databases]:
    """Start the server and make the folder that the databases are made in."""
    with tempfile.TemporaryDirectory() as folder, start_postgres() as server:
        silence()
        yield Databases(Path(folder), server)


def main() -> int:
    """Print the table; the exit code is 1 where anything does not hold."""
    wanted = sys.argv[1:]
    broken = 0
    started = time.perf_counter()
    print(COLUMNS.format("shape", "made on", *STEPS))
    with open_databases() as databases:
        for shape in SHAPES:
            if wanted and not any(word in shape.name for word in wanted):
                continue
            for row in try_shape(shape, databases):
                broken += bool(row.problems)
                print(row, *row.problems, sep="\n    ", flush=True)
                if wanted:
                    print(row.text)
    print(f"\nrows that do not hold: {broken} ({time.perf_counter() - started:.0f} s)")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
