"""Processes that begin with the chassis imported, which takes longest: forks of one that has."""

import atexit
import gc
import multiprocessing.popen_forkserver
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Self

import pytest

PATIENCE_SECONDS = 120
# No parts: their tables would be every service's.
IMPORTED = ("app", "commands.cli", "commands.serve", "db.migrations.upgrade")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *(f"chassis.{name}" for name in IMPORTED),
        *(plugin.module for plugin in entry_points(group="pytest11")),
    ]
)
RunPytest = Callable[..., pytest.RunResult]


class Fork:
    """A process that runs a module as `python -m` does; it ends with the block."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
    ) -> None:
        """Write what it prints into a file, and its errors there, too, or into another."""
        streams = (output.absolute(), (errors or output).absolute())
        for file in streams:
            file.write_bytes(b"")
        # What a process ignores from its start is ignored by those that it starts.
        is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        hangup = signal.SIG_IGN if is_ignored else signal.SIG_DFL
        given = (module, arguments, dict(environment), Path.cwd(), streams, hangup)
        self._process = FORKS.Process(target=become, args=given)
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._process.join()

    def poll(self) -> int | None:
        """Return the exit code, less than nothing for a signal, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end; return the exit code."""
        self._process.join(seconds)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, seconds)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to a process that runs."""
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it as nothing can prevent."""
        self._process.kill()


def become(
    module: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    folder: Path,
    streams: tuple[Path, Path],
    hangup: signal.Handlers,
) -> None:
    """Turn this process into one that was started as `python -m`."""
    # A server with a parent takes itself for a worker.
    vars(multiprocessing.process)["_parent_process"] = None
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_APPEND | os.O_WRONLY), number)
    signal.signal(signal.SIGHUP, hangup)
    # Where pytest runs in the background, it ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The folder of this module is on it if the environment says so.
    sys.path.remove(str(Path(__file__).parent))
    sys.path[:0] = [str(folder), *environment.get("PYTHONPATH", str(folder)).split(os.pathsep)]
    sys.argv = [module, *arguments]
    # Who collects garbage, as each pytest at its end, need not look at what is imported by now.
    gc.freeze()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


def run_pytest(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in the folder of `pytester`, in a process of its own."""
    output, errors = pytester.path / "stdout", pytester.path / "stderr"
    # Imported before pytest looks whose asserts to rewrite.
    imported = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    options = ("-W", imported, f"--basetemp={pytester.path / 'temporary'}", *arguments)
    with Fork("pytest", *options, environment=os.environ, output=output, errors=errors) as process:
        code = process.wait(600)
    said, warned = output.read_text(encoding="utf-8"), errors.read_text(encoding="utf-8")
    # Shown with the test that fails.
    print(said, warned)
    return pytest.RunResult(code, said.splitlines(), warned.splitlines(), 0)


def run_code(code: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a program, and return what it prints."""
    program, output, errors = Path("program.py"), Path("program.out"), Path("program.err")
    program.write_text(code, encoding="utf-8")
    environment = os.environ | variables
    with Fork("program", *arguments, environment=environment, output=output, errors=errors) as fork:
        status = fork.wait()
    return subprocess.CompletedProcess(code, status, output.read_text(), errors.read_text())
