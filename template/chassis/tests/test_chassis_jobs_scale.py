"""A claim beside many jobs that are done takes no longer than in an empty table.

20,000 of them, or 1,000,000 with CHASSIS_TEST_SCALE=full; `pytest -s` shows the figures.
"""

import os
import time
from datetime import timedelta
from statistics import quantiles
from typing import Any

from chassis_stock import create_tables, executing
from sqlalchemy import event, text

from chassis import ChassisSettings
from chassis.db import Sessions, open_sessions, session_scope
from chassis.jobs import job
from chassis.jobs.queue import claim_jobs
from chassis.jobs.records import count_dead

ROWS = 1_000_000 if os.environ.get("CHASSIS_TEST_SCALE") == "full" else 20_000
CLAIMS, ROUNDS = 100, 5
MOST = 1.2
# Copies of the one job that is there, as if they were done.
ADD_DONE = """
INSERT INTO jobs (id, name, queue, priority, arguments, context, state, run_at, attempts, fence,
                  created_at, started_at, finished_at)
WITH RECURSIVE numbers(number) AS (
    SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {rows}
)
SELECT 1000 + number, name, queue, priority, arguments, context, 'done', run_at, 1, 1,
       created_at, created_at, created_at
FROM jobs, numbers
"""


@job
async def send() -> None: ...


async def measure_claim(sessions: Sessions) -> float:
    """Return how many milliseconds a claim takes, where nothing else disturbs it."""
    taken = []
    async with session_scope(sessions.write) as session:
        for _ in range(CLAIMS):
            await session.connection()
            began = time.perf_counter()
            claims = await claim_jobs(session, "default", ["send"], 1, lease=timedelta(minutes=1))
            taken.append((time.perf_counter() - began) * 1000)
            assert len(claims) == 1
            await session.rollback()
    return quantiles(taken, n=10)[0]


async def test_a_claim_beside_many_done_jobs_takes_no_longer(settings: ChassisSettings) -> None:
    create_tables(settings)
    async with open_sessions(settings) as sessions:
        async with session_scope(sessions.write) as session:
            await send.enqueue(session)
            await session.commit()
        empty = min([await measure_claim(sessions) for _ in range(ROUNDS)])
        with executing(settings) as connection:
            connection.execute(text(ADD_DONE.format(rows=ROWS)))
            # Autovacuum does so after as many; it may have seen a table of one row.
            connection.execute(text("ANALYZE"))
        full = min([await measure_claim(sessions) for _ in range(ROUNDS)])
    print(f"a claim: {empty:.2f} ms, beside {ROWS:,} done jobs {full:.2f} ms")
    assert full < empty * MOST


async def test_dead_jobs_are_counted_without_reading_those_that_are_done(
    settings: ChassisSettings,
) -> None:
    create_tables(settings)
    statements: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: Any) -> None:
        statements.append(statement)

    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        await send.enqueue(session)
        await session.execute(text(ADD_DONE.format(rows=20_000)))
        await session.execute(text("ANALYZE"))
        engine = session.get_bind().engine
        event.listen(engine, "before_cursor_execute", note)
        assert await count_dead(session) == 0
        event.remove(engine, "before_cursor_execute", note)
        explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
        plan = [str(row) for row in await session.execute(text(f"{explain} {statements[-1]}"))]
    assert "ix_jobs_finished" in " ".join(plan), plan
