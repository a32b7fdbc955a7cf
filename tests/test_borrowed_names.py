"""The chassis works without each private name of another package that it borrows, and without all.

The names are taken away in a process that runs the chassis's own tests of what lies over them.
"""

import ast
import os
import subprocess
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.service import TEMPORARY

CHASSIS = Path(__file__).parents[1] / "template" / "chassis"
OF_THE_POOL = ["db_pool", "db_streams", "http_health"]
OF_THE_DATABASE = [*OF_THE_POOL, "db_engines", "db_transaction", "sqlite_connection", "migrations"]


def borrowed_names() -> list[str]:
    """Return the names that `chassis.db.borrowed` lists, as `module:attribute`."""
    source = (CHASSIS / "src" / "chassis" / "db" / "borrowed.py").read_text()
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [
        text
        for text in texts
        if isinstance(text, str) and ":" in text.strip(":") and " " not in text
    ]


def run_tests(subjects: list[str], *options: str, without: str) -> str:
    """Run tests of the chassis without some names; return what pytest says at the end."""
    files = [f"tests/test_chassis_{subject}.py" for subject in subjects]
    command = [find_uv_bin(), "run", "--quiet", "--all-extras", "pytest", "-q", "-n0"]
    variables = {name: value for name, value in os.environ.items() if name != TEMPORARY}
    ended = subprocess.run(
        [*command, "-p", "chassis_without", *options, *files],
        cwd=CHASSIS,
        env=variables | {"CHASSIS_WITHOUT": without, "PYTHONPATH": "tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", borrowed_names())
def test_the_chassis_needs_no_borrowed_name(name: str) -> None:
    assert "passed" in run_tests(OF_THE_POOL, without=name)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_chassis_works_with_newer_releases_by_public_names_alone(database: str) -> None:
    options = [] if database == "sqlite" else ["--database", database]
    assert "passed" in run_tests(OF_THE_DATABASE, *options, without="releases")
