"""Nobody reads the log: it is closed, its reader stops, or its reader ends."""

import os
import time
from pathlib import Path

import pytest

from .service import Ledger, served, wait_until

CLOSED = ("sh", "-c", 'exec "$@" 2>&-', "sh")
INTO_PIPE = ("sh", "-c", 'exec "$@" 2>"$0"')
REQUESTS = 2000


def slowest(ledger: Ledger, requests: int) -> float:
    """Ask again and again, and return how long the slowest answer took."""
    worst = 0.0
    for _ in range(requests):
        started = time.monotonic()
        assert ledger.client.get("/livez").status_code == 200
        worst = max(worst, time.monotonic() - started)
    return worst


def read(pipe: int) -> bytes:
    """Read what there is."""
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(pipe, 65536)
        except BlockingIOError:
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_reader_that_stops_does_not_stop_the_service(tmp_path: Path, form: str) -> None:
    os.mkfifo(tmp_path / "log")
    pipe = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with served(tmp_path, *INTO_PIPE, str(tmp_path / "log"), APP_LOG_FORMAT=form) as ledger:
            worst = slowest(ledger, REQUESTS)
            kept = read(pipe)
            ledger.client.get("/livez")
            wait_until(lambda: b"nobody read the log: " in read(pipe), "a line that says so")
            ledger.client.get("/livez")
            wait_until(lambda: b"GET /livez 200" in read(pipe), "lines as before")
    finally:
        os.close(pipe)
    print(f"\nthe slowest of {REQUESTS} answers took {worst:.2f} s; {len(kept)} bytes were kept")
    assert worst < 2
    assert kept.count(b"GET /livez 200") > 50
    assert kept.endswith(b"\n")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_is_closed_before_the_start_changes_nothing(
    tmp_path: Path, workers: str
) -> None:
    with served(tmp_path, *CLOSED, APP_SERVER_WORKERS=workers) as ledger:
        assert slowest(ledger, 100) < 2
        ledger.process.terminate()
        assert ledger.process.wait(30) == 0


def test_a_reader_that_ends_changes_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    pipe = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with served(tmp_path, *INTO_PIPE, str(tmp_path / "log")) as ledger:
        os.close(pipe)
        assert slowest(ledger, 100) < 2
        assert ledger.is_running()
