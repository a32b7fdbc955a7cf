"""Commands of the bank in processes that begin with the chassis imported, which takes longest."""

import atexit
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tests.service import ENDS_WITHIN_SECONDS

# Nothing of the bank itself, whose copies have revisions of their own.
IMPORTED = [
    "alembic.command",
    "chassis.app",
    "chassis.commands.cli",
    "chassis.commands.migrate",
    "chassis.db.migrations.environment",
    "chassis.db.migrations.upgrade",
    "pydantic.v1",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(IMPORTED)


def run_module(
    module: str,
    arguments: tuple[str, ...],
    variables: Mapping[str, str],
    folder: Path,
    output: Path,
    together: Barrier | None = None,
) -> int:
    """Run a module as `python -m` does, what it says into a file; return its exit code.

    Several wait for one another before they run, where they are given a barrier.
    """
    given = (module, arguments, dict(variables), folder, output, together)
    process = FORKS.Process(target=_become, args=given)
    process.start()
    process.join(ENDS_WITHIN_SECONDS)
    code = process.exitcode
    if code is None:
        process.kill()
        raise AssertionError(f"{module} {arguments} does not end:\n{output.read_text()}")
    process.close()
    return code


def _become(
    module: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    folder: Path,
    output: Path,
    together: Barrier | None,
) -> None:
    """Turn this process into one that was started as `python -m`."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with output.open("wb") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    sys.path[:0] = variables["PYTHONPATH"].split(os.pathsep)
    sys.argv = [module, *arguments]
    if together is not None:
        together.wait()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
