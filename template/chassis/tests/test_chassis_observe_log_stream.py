"""The stream of log lines, by threads that write at the same time."""

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import pytest

from chassis.observe import log_stream
from chassis.observe.log_stream import LogStream
from chassis.observe.logs import LogOptions, configure_logging

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")

LONG = "a" * 20_000


@dataclass
class Pipe:
    """What a process logs into, and who reads it."""

    reads: int
    writes: int

    def read(self) -> bytes:
        """Read what there is, or wait for more."""
        return os.read(self.reads, 1 << 20)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Open a pipe that nobody reads so far."""
    made = Pipe(*os.pipe())
    yield made
    os.close(made.reads)
    os.close(made.writes)


@pytest.fixture
def stream(pipe: Pipe) -> LogStream:
    """Log into the pipe."""
    return LogStream(pipe.writes)


def test_a_thread_that_writes_after_a_pause_waits_for_none_that_logs(
    pipe: Pipe, stream: LogStream
) -> None:
    handler = logging.StreamHandler(stream)
    lock = handler.lock
    assert lock is not None
    is_logging, is_writing = Event(), Event()

    def log() -> None:
        with lock:
            is_logging.set()
            is_writing.wait()
            writing.join(0.2)
            stream.write(f"{LONG}\n")

    writing = Thread(target=stream.write, args=("written\n",), daemon=True)
    logging_too = Thread(target=log, daemon=True)
    log_stream.logger.addHandler(handler)
    try:
        for _ in range(10):
            stream.write(LONG)
        pipe.read()
        logging_too.start()
        is_logging.wait()
        writing.start()
        is_writing.set()
        logging_too.join(5)
        writing.join(5)
    finally:
        log_stream.logger.removeHandler(handler)

    assert not logging_too.is_alive()
    assert not writing.is_alive()
    assert b"lines are missing" in pipe.read()


def test_a_long_line_has_no_short_one_inside(pipe: Pipe, stream: LogStream) -> None:
    def write_long_lines() -> None:
        for _ in range(200):
            stream.write(f"{LONG}\n")
        stream.write("end\n")

    def write_short_lines() -> None:
        while writing.is_alive():
            stream.write("b\n")

    writing = Thread(target=write_long_lines, daemon=True)
    others = Thread(target=write_short_lines, daemon=True)
    writing.start()
    others.start()
    text = b""
    while b"\nend\n" not in text:
        text += pipe.read()
    others.join()

    assert set(text.splitlines()) <= {LONG.encode(), b"b", b"end"}


def test_to_configure_logging_twice_opens_nothing_more(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = os.fdopen(os.dup(pipe.writes), "w")
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr(sys, "__stderr__", error)
    monkeypatch.setattr(logging.root, "handlers", [])
    try:
        configure_logging(LogOptions())
        first = sorted(Path("/proc/self/fd").iterdir())
        configure_logging(LogOptions())

        assert sorted(Path("/proc/self/fd").iterdir()) == first
    finally:
        logging.captureWarnings(False)
        error.close()
