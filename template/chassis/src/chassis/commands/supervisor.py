"""Server processes that another one watches: several that share sockets, or one that reloads."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket
from types import FrameType

from .processes import START_FAILED, handle_hangup

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 0.25


@dataclass
class Supervisor:
    """Several server processes on the same sockets; one that dies is replaced.

    uvicorn's own takes no other class of servers, so its workers would neither drain nor limit
    their clients; it ignores a second signal, and exits with 0 if none can start.
    """

    serve: Callable[[], None]
    processes: int
    sockets: list[socket]
    on_death: Callable[[int], object]
    _workers: list[SpawnProcess] = field(default_factory=list, init=False)
    _stopping: bool = field(default=False, init=False)
    _failed: bool = field(default=False, init=False)

    def run(self) -> None:
        """Serve until a signal. Exit with START_FAILED if a worker can't start."""
        signals: list[int] = []
        _handle_stop(lambda number, frame: signals.append(number))
        self._workers = [_start_worker(self.serve) for _ in range(self.processes)]
        while self._workers:
            wait([worker.sentinel for worker in self._workers], timeout=0.1)
            while signals:
                signals.pop()
                self._stop_workers()
            for worker in [worker for worker in self._workers if not worker.is_alive()]:
                self._replace_worker(worker)
        if self._failed:
            sys.exit(START_FAILED)

    def _stop_workers(self) -> None:
        self._stopping = True
        for one in self.sockets:
            one.close()
        for worker in self._workers:
            worker.terminate()

    def _replace_worker(self, worker: SpawnProcess) -> None:
        self._workers.remove(worker)
        self.on_death(worker.pid or 0)
        if self._stopping:
            return
        if worker.exitcode == START_FAILED:
            self._failed = True
            self._stop_workers()
        else:
            logger.warning(
                "worker [%s] died with %s, starting another", worker.pid, worker.exitcode
            )
            self._workers.append(_start_worker(self.serve))


def serve_and_reload(serve: Callable[[], None], folders: Sequence[Path]) -> None:
    """Serve in one process, and in a new one whenever a module in the folders changes."""
    signals: list[int] = []
    _handle_stop(lambda number, frame: signals.append(number))
    times, worker = _read_times(folders), _start_worker(serve)
    while not signals:
        time.sleep(RELOAD_SECONDS)
        if (now := _read_times(folders)) != times:
            logger.warning("the code has changed, starting again")
            _end_worker(worker)
            times, worker = now, _start_worker(serve)
    _end_worker(worker)


def _handle_stop(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    handle_hangup(handler)


def _start_worker(serve: Callable[[], None]) -> SpawnProcess:
    worker = multiprocessing.get_context("spawn").Process(target=serve)
    worker.start()
    return worker


def _end_worker(worker: SpawnProcess) -> None:
    worker.terminate()
    worker.join()


def _read_times(folders: Sequence[Path]) -> dict[str, int]:
    """Return when each module was written last; what is removed meanwhile is left out."""
    times: dict[str, int] = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for path in (f"{parent}/{name}" for name in names if name.endswith(".py")):
                with suppress(OSError):
                    times[path] = Path(path).stat().st_mtime_ns
    return times
