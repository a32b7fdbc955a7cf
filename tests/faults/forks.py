"""The bank in processes that begin with the chassis imported, which takes longest."""

import atexit
import multiprocessing.process
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


class Fork:
    """A process that runs a module as `python -m` does, what it says into a file."""

    def __init__(
        self,
        module: str,
        arguments: tuple[str, ...],
        variables: Mapping[str, str],
        folder: Path,
        output: Path,
        together: Barrier | None = None,
    ) -> None:
        """Several wait for one another before they run, where they are given a barrier."""
        given = (module, arguments, dict(variables), folder, output, together)
        self._process = FORKS.Process(target=_become, args=given)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code, less than nothing for a signal, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = ENDS_WITHIN_SECONDS) -> int:
        """Wait for its end, which has to come, and return the exit code."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self.kill()
            raise AssertionError(f"{self._process} did not end")
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to a process that runs."""
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it as nothing can prevent."""
        self._process.kill()


def _become(
    module: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    folder: Path,
    output: Path,
    together: Barrier | None,
) -> None:
    """Turn this process into one that was started as `python -m`."""
    # A server with a parent takes itself for a worker.
    vars(multiprocessing.process)["_parent_process"] = None
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
