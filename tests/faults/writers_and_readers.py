"""What writers get beside readers on SQLite: `python -m tests.faults.writers_and_readers`.

Prints a table: writers, readers and the size of the read pool; then the commits and reads a second,
the median of rounds that are interleaved.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit
from uuid import uuid4

from .bank import Bank, Serving

LOADS = ((4, 0), (4, 4), (4, 12), (12, 12), (1, 12), (0, 12))
POOLS = (1, 2, 3, 4, 10)
ROUNDS = 5
SECONDS = 2.0


@dataclass
class Client:
    """Clients of one kind, on connections that they keep; what was answered."""

    service: Serving
    answers: Counter[int]

    async def ask(self, method: str, path: str) -> None:
        """Ask again and again, a path that ends in a slash with a new name each time."""
        host, port = urlsplit(self.service.url).netloc.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while True:
                name = uuid4().hex if path.endswith("/") else ""
                writer.write(f"{method} {path}{name} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                fields = head.decode().lower().partition("content-length: ")
                await reader.readexactly(int(fields[2].partition("\r")[0]))
                self.answers[int(head[9:12])] += 1
        finally:
            writer.close()


async def drive(
    service: Serving, writers: int, readers: int, seconds: float
) -> tuple[Counter[int], Counter[int]]:
    """Write and read at once; return the answers of both, by status."""
    writes, reads = Client(service, Counter()), Client(service, Counter())
    asked = [writes.ask("POST", "/entries/") for _ in range(writers)]
    asked += [reads.ask("GET", "/page") for _ in range(readers)]
    tasks = [asyncio.create_task(one) for one in asked]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return writes.answers, reads.answers


def measure() -> Iterator[tuple[int, int, int, float, float]]:
    """Drive a service of each size with each load, in turns."""
    seen: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for _ in range(ROUNDS):
        for size in POOLS:
            with tempfile.TemporaryDirectory() as folder:
                bank = Bank(f"sqlite:///{folder}/bank.db", Path(folder)).migrate()
                with bank.set(APP_DATABASE_READ_POOL_SIZE=str(size)).serving() as service:
                    for load in LOADS:
                        wrote, read = asyncio.run(drive(service, *load, SECONDS))
                        seen.setdefault((*load, size), []).append((wrote[201], read[200]))
    for key in sorted(seen):
        wrote, read = (median(counts) / SECONDS for counts in zip(*seen[key], strict=True))
        yield *key, wrote, read


if __name__ == "__main__":
    started = time.monotonic()
    print("writers readers pool  commits/s  reads/s")
    for writers, readers, size, wrote, read in measure():
        print(f"{writers:7} {readers:7} {size:4} {wrote:10.0f} {read:8.0f}")
    print(f"{ROUNDS} rounds of {SECONDS:g} s, {time.monotonic() - started:.0f} s in all")
