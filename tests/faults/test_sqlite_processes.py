"""One SQLite file and several processes: no update is lost, and readers never wait."""

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2
import pytest

from tests.scale import FULL

from .bank import Bank, Serving

PROCESSES = 4
INCREMENTS = 500 if FULL else 60

only_sqlite = pytest.mark.parametrize("bank", ["sqlite"], indirect=True)


@only_sqlite
@pytest.mark.parametrize("route", ["increments", "careless-increments"])
def test_increments_of_several_processes_all_count(bank: Bank, route: str) -> None:
    async def increment(service: Serving) -> Counter[int]:
        async with service.client() as client:
            answers: Counter[int] = Counter()
            for _ in range(INCREMENTS):
                answers[(await client.post(f"/accounts/1/{route}")).status_code] += 1
            return answers

    async def increment_by_all() -> Counter[int]:
        return sum(await asyncio.gather(*map(increment, services)), Counter())

    with ExitStack() as stack:
        services = [stack.enter_context(bank.serving()) for _ in range(PROCESSES)]
        answers = asyncio.run(increment_by_all())

    balance = query(bank, "SELECT balance FROM accounts WHERE id = 1")
    print(f"{PROCESSES} processes: answers {dict(answers)}, balance {balance}")
    assert answers == {200: PROCESSES * INCREMENTS}
    assert balance == PROCESSES * INCREMENTS


@only_sqlite
def test_readers_never_wait_for_a_writer(bank: Bank) -> None:
    async def read_while_another_writes() -> list[float]:
        with bank.serving() as service:
            async with service.client() as client:
                await client.get("/count")
                with closing(sqlite3.connect(file(bank), isolation_level=None)) as writer:
                    writer.execute("BEGIN IMMEDIATE")
                    writer.execute("INSERT INTO entries (name) VALUES ('not committed')")
                    return [await timed(client) for _ in range(20)]

    async def timed(client: httpx2.AsyncClient) -> float:
        started = time.monotonic()
        response = await client.get("/count")
        assert (response.status_code, response.json()) == (200, 0)
        return time.monotonic() - started

    slowest = max(asyncio.run(read_while_another_writes()))

    print(f"the slowest read while another process wrote: {slowest * 1000:.0f} ms")
    assert slowest < 1


def file(bank: Bank) -> Path:
    """Give the file of the bank's database."""
    return Path(bank.url.removeprefix("sqlite:///"))


def query(bank: Bank, statement: str) -> object:
    """Ask the file itself for one value."""
    with closing(sqlite3.connect(file(bank))) as connection:
        return connection.execute(statement).fetchone()[0]
