"""Standard error, as a stream that never waits for long until somebody reads it."""

import logging
import os
import select
import stat
import sys
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import TextIO

logger = logging.getLogger(__name__)

# How long one line waits, once; the lines after it are dropped until there is room again.
WAIT_SECONDS = 0.2
# What a pipe takes at once or not at all.
ATOMIC_BYTES = 4096


def open_log_stream() -> "TextIO | LogStream":
    """Return standard error; if it may fill up, in a form that drops lines instead of waiting.

    If it was closed before the start, what is logged goes nowhere.
    """
    error = sys.stderr
    if error is None:
        return Path(os.devnull).open("w")
    # Tests put others in its place.
    is_own = error is sys.__stderr__
    if is_own and hasattr(select, "poll"):
        with suppress(OSError, ValueError):
            descriptor = error.fileno()
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return LogStream(descriptor)
    return error


class LogStream:
    """A pipe, a socket or a terminal. Writing to it never raises, and waits once at most."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._blocks = _reopen_pipe(descriptor)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self._lock = RLock()
        self._dropped = 0
        self._takes_lines = not self._blocks
        self._is_full = False
        self._is_torn = False

    def write(self, text: str) -> None:
        """Write a line, or drop it."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self._takes_lines and len(data) <= ATOMIC_BYTES:
                # The usual case, in a third of the time.
                try:
                    os.write(self._descriptor, data)
                except OSError:
                    pass
                else:
                    return
            missing = self._write_or_drop(data)
        # Not within the lock: whoever logs holds the one of its handler, and waits for ours.
        if missing:
            logger.warning("nobody read the log: %d lines are missing so far", missing)

    def flush(self) -> None:
        """Do nothing, as nothing is kept."""

    def _write_or_drop(self, data: bytes) -> int:
        """Return how many lines are missing, if this is the first after them."""
        was_full = self._is_full
        self._is_full = not self._write_parts(b"\n" + data if self._is_torn else data)
        self._takes_lines = not (self._blocks or self._is_full)
        self._dropped += self._is_full
        return self._dropped if was_full and not self._is_full else 0

    def _write_parts(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:
            written = self._write_part(rest[:ATOMIC_BYTES])
            if not written:
                self._is_torn = self._is_torn or len(rest) < len(data)
                return False
            self._is_torn = False
            rest = rest[written:]
        return True

    def _write_part(self, part: memoryview) -> int:
        """Return how many bytes were written: 0 if there is no room, or nobody reads any more."""
        with suppress(OSError):
            if not self._blocks:
                with suppress(BlockingIOError):
                    return os.write(self._descriptor, part)
            if self._poll.poll(0 if self._is_full else WAIT_SECONDS * 1000):
                return os.write(self._descriptor, part)
        return 0


def _reopen_pipe(descriptor: int) -> tuple[int, bool]:
    """Return a pipe's descriptor of our own, and whether writing to it may wait.

    A flag of the one that is shared would change it for all other processes that have it.
    """
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags), False
    return descriptor, True
