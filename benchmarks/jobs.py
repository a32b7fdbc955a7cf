"""Jobs of nothing beside procrastinate's and plain rows, on one PostgreSQL, in turns.

`uv run --with procrastinate python -m benchmarks.jobs`; without it, its lines are left out.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from chassis.db import DatabaseSettings, open_sessions, session_scope
from chassis.db.migrations.connect import open_connection
from chassis.jobs import JobRecord
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.empty_jobs import empty
from tests.postgres import Postgres, start_postgres
from tests.repository import ROOT

CONNECTIONS = 4
# As many as both leave to a worker at least.
CONCURRENCY = 10
PROCRASTINATE = """
import asyncio, os
from procrastinate import App, PsycopgConnector
app = App(connector=PsycopgConnector(conninfo=os.environ["APP_DATABASE_URL"], max_size=5))
@app.task(name="empty")
async def empty(): ...
async def main():
    async with app.open_async():
        if {setup}:
            await app.schema_manager.apply_schema_async()
        else:
            await app.run_worker_async(wait=False, concurrency={concurrency}, listen_notify=False)
asyncio.run(main())
"""
CHASSIS = "from benchmarks.empty_jobs import run; run()"
DEFER = """
SELECT procrastinate_defer_jobs_v1(ARRAY[
    ROW('default', 'empty', 0, NULL, NULL, '{}', NULL)::procrastinate_job_to_defer_v1])
"""
DEFERRED_SECONDS = """
SELECT extract(epoch FROM max(at) - min(at)) FROM procrastinate_events
WHERE type IN ('started', 'succeeded')
"""
DONE_SECONDS = "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM jobs"
Add = Callable[[AsyncSession], Awaitable[object]]


async def add_plain_row(session: AsyncSession) -> None:
    """Insert a row of the size of a job."""
    await session.execute(text("INSERT INTO plain (name, arguments) VALUES ('empty', '{}')"))


async def defer(session: AsyncSession) -> None:
    """Defer a job of procrastinate's in the session's transaction."""
    await session.execute(text(DEFER))


def main() -> None:
    """Run the rounds and print how many a second of each there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with_procrastinate = find_spec("procrastinate") is not None
    seen: dict[str, list[float]] = {}
    with start_postgres() as server, tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            one = Round(server, Path(folder), options.jobs, options.workers)
            found = one.measure_chassis()
            if with_procrastinate:
                found |= one.measure_procrastinate()
            for what, rate in found.items():
                seen.setdefault(what, []).append(rate)
    print(f"{options.jobs:,} jobs, {options.workers} workers, median of {options.rounds} rounds")
    for what, rates in seen.items():
        print(f"{what:40} {median(rates):8,.0f} a second")


class Round:
    """One round in a database of its own."""

    def __init__(self, server: Postgres, folder: Path, jobs: int, workers: int) -> None:
        self._server, self._database = server, server.create_database()
        self._url = server.url(self._database)
        self._settings = DatabaseSettings(
            database_url=SecretStr(self._url), secrets_dir=folder / "none"
        )
        self._folder, self._jobs, self._workers = folder, jobs, workers

    def measure_chassis(self) -> dict[str, float]:
        """Measure plain rows, then jobs of the chassis."""
        with open_connection(self._settings) as connection:
            JobRecord.metadata.create_all(
                connection, tables=[JobRecord.metadata.tables[JobRecord.__tablename__]]
            )
            connection.execute(
                text("CREATE TABLE plain (id bigserial PRIMARY KEY, name text, arguments jsonb)")
            )
            connection.commit()
        found = {
            "plain rows inserted": asyncio.run(self._add(add_plain_row)),
            "jobs enqueued": asyncio.run(self._add(empty.enqueue)),
        }
        self._work(CHASSIS, "work", "--concurrency", str(CONCURRENCY))
        return {**found, "jobs done": self._jobs / self._ask(DONE_SECONDS)}

    def measure_procrastinate(self) -> dict[str, float]:
        """Measure jobs of procrastinate."""
        self._start(PROCRASTINATE.format(setup=True, concurrency=1)).wait()
        found = {"procrastinate: jobs deferred": asyncio.run(self._add(defer))}
        self._work(PROCRASTINATE.format(setup=False, concurrency=CONCURRENCY))
        return {**found, "procrastinate: jobs done": self._jobs / self._ask(DEFERRED_SECONDS)}

    async def _add(self, add: Add) -> float:
        """Add by several connections at once, each in a transaction of its own."""
        async with open_sessions(self._settings) as sessions:

            async def add_share() -> None:
                for _ in range(self._jobs // CONNECTIONS):
                    async with session_scope(sessions.write) as session:
                        await add(session)
                        await session.commit()

            began = time.perf_counter()
            await asyncio.gather(*(add_share() for _ in range(CONNECTIONS)))
            return self._jobs / (time.perf_counter() - began)

    def _work(self, script: str, *arguments: str) -> None:
        """Run workers until all jobs are done."""
        workers = [self._start(script, *arguments) for _ in range(self._workers)]
        if script == CHASSIS:
            while self._ask("SELECT count(*) FROM jobs WHERE state <> 'done'"):
                time.sleep(1)
            for worker in workers:
                worker.terminate()
        for worker in workers:
            assert worker.wait() == 0

    def _start(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process; each is quiet, as logs cost both the same."""
        variables = {
            "APP_DATABASE_URL": self._url,
            "APP_LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.Popen(command, env={**os.environ, **variables}, cwd=self._folder)

    def _ask(self, question: str) -> float:
        return float(self._server.execute(question, self._database))


if __name__ == "__main__":
    main()
