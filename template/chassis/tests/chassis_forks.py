"""Run pytests of services, each in a fork of one process: what they import is imported once."""

import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

import pytest

RunPytest = Callable[..., pytest.RunResult]


class Forks:
    """A process that forks for each pytest."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._requests, self._answers = process.stdin, process.stdout

    def run_pytest(self, pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
        """Run pytest in the folder and the environment of a test, as `python -m pytest` does."""
        assert self._requests is not None
        assert self._answers is not None
        output, errors = pytester.path / "stdout", pytester.path / "stderr"
        request = {
            "arguments": [f"--basetemp={pytester.path / 'temporary'}", *arguments],
            "folder": str(pytester.path),
            "environment": dict(os.environ),
            "streams": [os.devnull, str(output), str(errors)],
        }
        begin = time.perf_counter()
        print(json.dumps(request), file=self._requests, flush=True)
        code = int(self._answers.readline())
        duration = time.perf_counter() - begin
        said, warned = output.read_text(encoding="utf-8"), errors.read_text(encoding="utf-8")
        # Shown with the test that fails.
        print(said, warned)
        return pytest.RunResult(code, said.splitlines(), warned.splitlines(), duration)


@contextmanager
def start_forks() -> Iterator[Forks]:
    """Start the process that forks; it ends with the block."""
    # -P: a service's pytest does not find the modules beside this one.
    command = [sys.executable, "-P", __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        yield Forks(process)


def serve() -> None:
    """Fork for each request; answer with the exit code."""
    # No parts: their tables would be every service's.
    for name in ("app", "commands.cli", "db.migrations.upgrade"):
        importlib.import_module(f"chassis.{name}")
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    # Each pytest collects garbage at its end: it need not look at all these.
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> None:
    """Run pytest in this process, and end it."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, folder)
    for number, stream in enumerate(streams):
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY if number else os.O_RDONLY
        os.dup2(os.open(stream, flags, 0o600), number)
    # Imported before pytest looks whose asserts to rewrite.
    imported = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    sys.exit(pytest.main(["-W", imported, *arguments]))


if __name__ == "__main__":
    serve()
