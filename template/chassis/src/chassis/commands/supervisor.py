"""Several server processes, and what they do when the one that started them is gone."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from socket import socket
from types import FrameType

logger = logging.getLogger(__name__)

# The exit code that uvicorn uses too.
START_FAILED = 3


class Supervisor:
    """Several server processes on the same sockets; one that dies is replaced.

    uvicorn's own supervisor replaces them with servers that don't drain, forwards no second
    signal, holds the socket open while they stop, and exits with 0 where none can start.
    """

    def __init__(
        self,
        serve: Callable[[], None],
        processes: int,
        sockets: list[socket],
        on_death: Callable[[int], object],
    ) -> None:
        self._serve = serve
        self._processes = processes
        self._sockets = sockets
        self._on_death = on_death
        self._workers: list[SpawnProcess] = []
        self._signals: list[int] = []
        self._stopping = False
        self._failed = False

    def run(self) -> None:
        """Serve until a signal, or until a worker can't start."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note_signal)
        stop_on_hangup(self._note_signal)
        self._workers = [self._start_worker() for _ in range(self._processes)]
        while self._workers:
            wait([worker.sentinel for worker in self._workers], timeout=0.1)
            while self._signals:
                self._signals.pop()
                self._stop()
            for worker in [worker for worker in self._workers if not worker.is_alive()]:
                self._replace_worker(worker)
        if self._failed:
            sys.exit(START_FAILED)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _start_worker(self) -> SpawnProcess:
        worker = multiprocessing.get_context("spawn").Process(target=self._serve)
        worker.start()
        return worker

    def _stop(self) -> None:
        self._stopping = True
        for one in self._sockets:
            one.close()
        for worker in self._workers:
            worker.terminate()

    def _replace_worker(self, worker: SpawnProcess) -> None:
        self._workers.remove(worker)
        self._on_death(worker.pid or 0)
        if self._stopping:
            return
        if worker.exitcode == START_FAILED:
            self._failed = True
            self._stop()
        else:
            logger.warning(
                "worker [%s] died with %s, starting another", worker.pid, worker.exitcode
            )
            self._workers.append(self._start_worker())


def stop_on_hangup(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle SIGHUP, where there is one and it is not ignored, as nohup asks."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


def exit_with_parent() -> bool:
    """Stop this process when its parent is killed. Return whether it has one, so is a worker."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return False
    if hasattr(signal, "SIGHUP"):
        # The supervisor passes a hang-up on; taken twice, it would end the drain.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    join = parent.join

    def watch() -> None:
        join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return True


def is_orphan() -> bool:
    """Return whether this process is a worker whose supervisor is gone."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
