"""Try model shapes on both engines and print what holds: `python -m tests.model_table`."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chassis.db import DatabaseSettings

from tests.models.changes import CHANGES, Change
from tests.models.shapes import SHAPES, Shape
from tests.models.trial import (
    ENGINES,
    Databases,
    Package,
    leftovers,
    silence,
    write_package,
)
from tests.postgres import Postgres, start_postgres

STEPS = ("writes", "lints", "one text", "applies", "stores", "no drift", "checked", "down", "again")
CHANGE_STEPS = ("alembic", "migrate", *STEPS)
VARYING = re.compile(r"^(Create Date|Revision ID|Revises):?.*$", re.MULTILINE)


@dataclass
class Row:
    """What held of one shape whose revision was written on one engine."""

    name: str
    engine: str
    steps: tuple[str, ...] = STEPS
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
        marks = [{True: "yes", False: "NO", None: "-"}[self.results.get(one)] for one in self.steps]
        return line(self.name, self.engine, marks)


def line(name: str, engine: str, cells: Iterable[str]) -> str:
    """Return a line of the table."""
    return " ".join([f"{name:62}", f"{engine:8}", *(f"{cell:>8}" for cell in cells)])


def try_shape(shape: Shape, databases: Databases) -> list[Row]:
    """Generate a shape's revision on each engine and use it on both."""
    rows: list[Row] = []
    for engine in shape.engines:
        row = Row(shape.name, engine)
        with write_package(databases.folder, shape.source) as package:
            with row.step("writes"):
                row.text = package.generate(databases.create(engine), "first")
            if row.text and not take_results(row, rows):
                with row.step("lints"):
                    lint(row.text)
                for target in shape.engines:
                    use_revision(row, package, databases.create(target), target)
                with row.step("checked"):
                    settings = databases.create("postgres")
                    only = "sqlite" not in shape.engines
                    assert (found := package.rehearse(settings, only_postgres=only)) == "", found
        rows.append(row)
    return rows


def try_change(change: Change, databases: Databases) -> list[Row]:
    """Change models above tables with rows, and have the change noticed, made and taken back."""
    rows: list[Row] = []
    for engine in ENGINES:
        row = Row(change.name, engine, CHANGE_STEPS)
        with write_package(databases.folder, change.before) as package:
            settings = {target: databases.create(target) for target in ENGINES}
            package.generate(settings[engine], "first")
            for each in settings.values():
                package.upgrade(each)
                package.store_and_read(each)
            package.write_models(change.after)
            for target, each in settings.items():
                with row.step("alembic", target):
                    assert package.drift(each), "alembic check does not see it"
            with row.step("migrate"):
                assert package.rehearse(settings["postgres"]), "migrate --check does not see it"
            with row.step("writes"):
                row.text = package.generate(settings[engine], "second")
            if row.text and not take_results(row, rows):
                with row.step("lints"):
                    lint(row.text)
                for target, each in settings.items():
                    use_revision(row, package, each, target, earlier="first")
                with row.step("checked"):
                    assert (found := package.rehearse(settings["postgres"])) == "", found
        rows.append(row)
    return rows


def take_results(row: Row, earlier: list[Row]) -> bool:
    """Take the results of a row whose text is the same; return whether there is one."""
    same = [one for one in earlier if VARYING.sub("", one.text) == VARYING.sub("", row.text)]
    with row.step("one text"):
        assert same or not earlier, "it is another text than the one made on the other engine"
    for one in same:
        row.results = one.results | row.results
    return bool(same)


def use_revision(
    row: Row, package: Package, settings: DatabaseSettings, target: str, earlier: str = "base"
) -> None:
    """Upgrade, store and read, compare, downgrade and upgrade again on one engine."""
    with row.step("applies", target):
        package.upgrade(settings)
        with row.step("stores", target):
            package.store_and_read(settings)
        with row.step("no drift", target):
            assert (found := package.drift(settings)) == "", found
        with row.step("down", target):
            package.downgrade(settings, earlier)
            left = leftovers(settings) if earlier == "base" else set()
            assert left == set(), left
            with row.step("again", target):
                package.upgrade(settings)


def lint(text: str) -> None:
    """Raise ValueError for what ruff says of a revision."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F", "--quiet"]
    command += ["--ignore=F401", "--output-format=concise", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stdout)


@contextmanager
def open_databases(server: Postgres) -> Iterator[Databases]:
    """Make the folder that the databases are made in, beside a server."""
    with tempfile.TemporaryDirectory() as folder, silence():
        yield Databases(Path(folder), server)


def main() -> int:
    """Print the tables; the exit code is 1 where anything does not hold.

    Words choose what is tried by its name, and have the revisions printed.
    """
    wanted = sys.argv[1:]
    broken = 0
    started = time.perf_counter()
    with start_postgres() as server, open_databases(server) as databases:
        tables: list[tuple[str, tuple[str, ...], list[Any], Callable[..., list[Row]]]] = [
            ("shape", STEPS, SHAPES, try_shape),
            ("change", CHANGE_STEPS, CHANGES, try_change),
        ]
        for title, steps, cases, attempt in tables:
            print(f"\n{line(title, 'made on', steps)}")
            for case in cases:
                if wanted and not any(word in case.name for word in wanted):
                    continue
                for row in attempt(case, databases):
                    broken += bool(row.problems)
                    print(row, *row.problems, sep="\n    ", flush=True)
                    if wanted:
                        print(row.text)
    print(f"\nrows that do not hold: {broken} ({time.perf_counter() - started:.0f} s)")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
