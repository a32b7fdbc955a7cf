"""A candidate that runs: its process, what it cost so far, and wrk against it (Linux only)."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from benchmarks.candidates import ROWS, Candidate
from tests.postgres import HOST, free_port

SCRIPT = Path(__file__).parent / "load.lua"
TICKS = os.sysconf("SC_CLK_TCK")
STARTS_WITHIN_SECONDS = 30
# A deployed service is compiled once, as in its image; the first start of a candidate does it here.
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True)
class Slice:
    """What one run of wrk showed: latencies in ms, CPU of the server in µs a request."""

    requests_per_second: float
    p50: float
    p99: float
    cpu: float


@dataclass(frozen=True)
class Server:
    """A candidate's process, listening."""

    candidate: Candidate
    process: subprocess.Popen[bytes]
    port: int

    def drive(self, work: str, *, clients: int, seconds: float) -> Slice:
        """Send one kind of work for some seconds. Raises RuntimeError if any request fails."""
        before = self.cpu_seconds()
        load = f"wrk -t1 -c{clients} -d{seconds}s --timeout 10s -s".split()
        url = f"http://{HOST}:{self.port}"
        command = [*load, str(SCRIPT), url, "--", work, str(ROWS)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seen = json.loads(output.splitlines()[-1])
        if seen["failed"] or not seen["requests"]:
            raise RuntimeError(f"{self.candidate.name} on {self.candidate.backend}, {work}: {seen}")
        return Slice(
            requests_per_second=seen["requests"] / seen["seconds"],
            p50=seen["p50"],
            p99=seen["p99"],
            cpu=(self.cpu_seconds() - before) / seen["requests"] * 1e6,
        )

    def cpu_seconds(self) -> float:
        """The processor time that the process used so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self) -> float:
        """The memory that the process holds (its resident set)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@contextmanager
def run(candidate: Candidate, log: Path) -> Iterator[Server]:
    """Start a candidate, wait for its first answer, and stop it at the end."""
    port = free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*candidate.command, str(port)],
            cwd=candidate.folder,
            env=os.environ | BYTECODE | candidate.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, port, log)
        yield Server(candidate, process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def cold_start(candidate: Candidate, log: Path) -> float:
    """Measure the seconds from the start of the process to its first answer."""
    started = time.monotonic()
    with run(candidate, log):
        return time.monotonic() - started


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://{HOST}:{port}/livez"):
                return
        except (HTTPError, URLError, ConnectionError):
            time.sleep(0.002)
    raise RuntimeError(f"no answer from {process.args!r}:\n{log.read_text()[-2000:]}")
