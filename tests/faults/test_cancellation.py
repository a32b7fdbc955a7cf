"""Cancellation: a task that is cancelled at any moment leaks no connection and holds no lock."""

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from chassis.db import create_database_engine, create_session_factory, session_scope
from chassis.db.sessions import SessionFactory
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.scale import FULL

from .conftest import ReadSettings
from .servers import Cluster

ON_POSTGRES = 1200 if FULL else 120
ON_SQLITE = 300 if FULL else 40
AT_ONCE = 8
CHANGE = text("UPDATE work SET n = n + 1 WHERE id = 1")
# Some 30 ms, in which a statement can be cancelled.
SLOW_ON_POSTGRES = text("SELECT pg_sleep(0.03)")
SLOW_ON_SQLITE = text("""
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
    SELECT max(n) FROM numbers
""")
# Another process, which tries to write as soon as it is asked.
LOCKSMITH = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
for _ in sys.stdin:
    started = time.perf_counter()
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        print(time.perf_counter() - started, flush=True)
    except sqlite3.OperationalError:
        print("inf", flush=True)
"""


@dataclass
class Locksmith:
    """A process that tells how long it waits for the write lock of a SQLite file."""

    process: subprocess.Popen[str]

    async def wait_for_lock(self) -> float:
        """Give the seconds that it waited; infinity where it did not get the lock."""
        return float(await asyncio.to_thread(self._ask))

    def _ask(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("now\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


@contextmanager
def locksmith(file: Path) -> Iterator[Locksmith]:
    """Start the process; it ends with the block."""
    command = [sys.executable, "-c", LOCKSMITH, str(file)]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Locksmith(process)
        finally:
            process.kill()


def test_cancelled_tasks_leave_the_pool_of_postgres_whole(
    embedded_server: Cluster, read_settings: ReadSettings
) -> None:
    name = embedded_server.create_database()
    settings = read_settings(APP_DATABASE_URL=embedded_server.url(name))

    async def cancel_often() -> tuple[Counter[str], int, str]:
        engine = create_database_engine(settings)
        work = Work(create_session_factory(settings, engine), SLOW_ON_POSTGRES)
        await work.prepare()
        ends: Counter[str] = Counter()
        while ends["cancelled"] < ON_POSTGRES:
            ends += await work.cancel_some(AT_ONCE)
        lent = engine.pool.checkedout()  # type: ignore[attr-defined]
        held = await asyncio.to_thread(embedded_server.execute, IN_TRANSACTION.format(name))
        await all_connections_work(engine, settings.database_pool_size)
        await engine.dispose()
        return ends, lent, held

    ends, lent, held = asyncio.run(cancel_often())

    print(f"{dict(ends)}, connections lent {lent}, in a transaction {held}")
    assert ends.keys() <= {"cancelled", "done"}
    assert (lent, held) == (0, "0")


# aiosqlite leaves a connection to the garbage collector if it was cancelled while it was opened.
@pytest.mark.filterwarnings("ignore:.*sqlite3.Connection:pytest.PytestUnraisableExceptionWarning")
def test_cancelled_tasks_hold_no_lock_of_sqlite(
    tmp_path: Path, read_settings: ReadSettings
) -> None:
    file = tmp_path / "work.db"
    settings = read_settings(APP_DATABASE_URL=f"sqlite:///{file}")

    async def cancel_often(other: Locksmith) -> tuple[Counter[str], list[float], int, int]:
        engine = create_database_engine(settings)
        work = Work(create_session_factory(settings, engine), SLOW_ON_SQLITE)
        await work.prepare()
        ends: Counter[str] = Counter()
        waited = []
        while ends["cancelled"] < ON_SQLITE:
            for tasks in (1, AT_ONCE):
                ends += await work.cancel_some(tasks)
                waited.append(await other.wait_for_lock())
        lent = engine.pool.checkedout()  # type: ignore[attr-defined]
        await all_connections_work(engine, 1)
        await engine.dispose()
        # A connection that was given up is closed by its own thread.
        await asyncio.sleep(0.5)
        return ends, waited, lent, open_files(file)

    with locksmith(file) as other:
        ends, waited, lent, left_open = asyncio.run(cancel_often(other))

    print(
        f"{dict(ends)}, connections lent {lent}, open afterwards {left_open}, "
        f"the lock was free after {max(waited):.3f} s"
    )
    assert ends.keys() <= {"cancelled", "done"}
    assert (lent, left_open) == (0, 0)
    assert max(waited) < 1


IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND xact_start IS NOT NULL
"""


def open_files(file: Path) -> int:
    """Count how often this process has a file open."""
    opened = Path("/proc/self/fd")
    return sum(link.resolve() == file for link in opened.iterdir()) if opened.is_dir() else 0


@dataclass
class Work:
    """Transactions that write, each around a slow statement, on one row of a table."""

    sessions: SessionFactory
    slow: TextClause
    takes_seconds: float = 0.0

    async def prepare(self) -> None:
        """Make the table and see how long a transaction takes."""
        async with session_scope(self.sessions) as session:
            await session.execute(text("CREATE TABLE work (id INTEGER PRIMARY KEY, n INTEGER)"))
            await session.execute(text("INSERT INTO work VALUES (1, 0)"))
            await session.commit()
        started = time.monotonic()
        await self.write()
        self.takes_seconds = time.monotonic() - started

    async def write(self) -> None:
        """Do it once."""
        async with session_scope(self.sessions) as session:
            await session.execute(CHANGE)
            await session.execute(self.slow)
            await session.execute(CHANGE)
            await session.commit()

    async def cancel_some(self, tasks: int) -> Counter[str]:
        """Do it several times at once, cancel each at a random moment, count how they ended."""
        longest = self.takes_seconds * (tasks + 1) / 2

        async def cancel(task: asyncio.Task[None]) -> str:
            await asyncio.sleep(random.uniform(0, longest))
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return "cancelled"
            except Exception as error:
                return type(error).__name__
            return "done"

        started = [asyncio.create_task(self.write()) for _ in range(tasks)]
        return Counter(await asyncio.gather(*map(cancel, started)))


async def all_connections_work(engine: AsyncEngine, size: int) -> None:
    """Take each connection of the pool at once and use it."""

    async def use(barrier: asyncio.Barrier) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await barrier.wait()

    started = time.monotonic()
    barrier = asyncio.Barrier(size)
    await asyncio.gather(*(use(barrier) for _ in range(size)))
    assert time.monotonic() - started < 5
