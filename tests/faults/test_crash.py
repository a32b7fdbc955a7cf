"""Crashes: what was acknowledged is there after a kill -9 of the service, or of PostgreSQL."""

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from tests.scale import FULL

from .bank import Bank, Writers, lost
from .embedded import embedded, start_again
from .servers import Cluster

KILLS = 50 if FULL else 5
LONGEST_SECONDS = 0.5


def test_nothing_acknowledged_is_lost_when_the_service_is_killed(bank: Bank) -> None:
    writers = Writers()
    for _ in range(KILLS):
        kill_while_writing(bank, writers)

    with bank.serving() as service:
        missing = asyncio.run(lost(service, writers))

    print(f"{KILLS} kills, {len(writers.acknowledged)} acknowledged, {len(missing)} lost")
    assert missing == set()
    assert len(writers.acknowledged) > KILLS
    assert_intact(bank)


def test_a_route_that_answers_before_its_commit_is_caught_by_this(bank: Bank) -> None:
    writers = Writers(path="/early")
    for _ in range(2):
        kill_while_writing(bank, writers)

    with bank.serving() as service:
        missing = asyncio.run(lost(service, writers))

    print(f"{len(writers.acknowledged)} acknowledged, {len(missing)} lost")
    assert missing


def test_nothing_acknowledged_is_lost_when_postgres_is_killed(tmp_path: Path) -> None:
    writers = Writers()

    missing = kill_postgres_while_writing(tmp_path, writers, KILLS)

    print(
        f"{KILLS} kills, {len(writers.acknowledged)} acknowledged, {len(missing)} lost, "
        f"answers {dict(writers.answers)}, no answer {writers.failures}"
    )
    assert missing == set()
    assert writers.answers.keys() <= {201, 503}
    assert writers.failures == 0


def test_a_route_that_answers_early_loses_entries_with_postgres_too(tmp_path: Path) -> None:
    # Of few entries a single kill may lose none.
    assert kill_postgres_while_writing(tmp_path, Writers(path="/early"), 3)


def kill_while_writing(bank: Bank, writers: Writers) -> None:
    """Serve, write, and kill the service at a random moment."""

    async def write_and_kill() -> None:
        with bank.serving() as service:
            async with writers.writing(service):
                await more_entries(writers)
                await asyncio.sleep(random.uniform(0, LONGEST_SECONDS))
                service.kill()

    asyncio.run(write_and_kill())


def kill_postgres_while_writing(folder: Path, writers: Writers, kills: int) -> set[str]:
    """Write, and kill the server at random moments; its pages are checked, and losses named."""

    async def kill_often(server: Cluster, bank: Bank) -> set[str]:
        with bank.serving() as service:
            async with writers.writing(service):
                for _ in range(kills):
                    await more_entries(writers)
                    await asyncio.sleep(random.uniform(0, LONGEST_SECONDS))
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(start_again, server)
                await more_entries(writers)
            return await lost(service, writers)

    with embedded() as server:
        bank = Bank(server.url(server.create_database()), folder).migrate()
        missing = asyncio.run(kill_often(server, bank))
        server.stop()
        server.run("pg_checksums", "--check", "-D", str(server.data))
        return missing


async def more_entries(writers: Writers, seconds: float = 60) -> None:
    """Wait until an entry is acknowledged that was not before."""
    before = len(writers.acknowledged)
    async with asyncio.timeout(seconds):
        while len(writers.acknowledged) == before:
            await asyncio.sleep(0.01)


def assert_intact(bank: Bank) -> None:
    """Look at a SQLite file as SQLite itself does; PostgreSQL was not harmed."""
    address = urlsplit(bank.url)
    if address.scheme == "sqlite":
        with closing(sqlite3.connect(address.path[1:])) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
