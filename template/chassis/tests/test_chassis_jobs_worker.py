"""The worker where things go wrong: at a commit, at the stop, and again and again."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta

import pytest
from chassis_job_records import make_job, store
from chassis_stock import Item, changed, create_stock, create_tables, started
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import ChassisSettings
from chassis.db import Sessions, open_sessions, session_scope
from chassis.jobs import JobRecord, JobState, job

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    create_tables(settings)
    return changed(settings, jobs_poll_seconds=0.05)


async def read_jobs(sessions: Sessions) -> list[JobRecord]:
    async with session_scope(sessions.read) as session:
        return list(await session.scalars(select(JobRecord).order_by(JobRecord.id)))


async def run(app: FastAPI, *jobs: JobRecord) -> list[JobRecord]:
    """Run jobs by the worker of an application, and give their rows afterwards."""
    async with started(app):
        async with session_scope(app.state.sessions.write) as session:
            await store(session, *jobs)
        await app.jobs.worker.run_due()  # type: ignore[attr-defined]
        return await read_jobs(app.state.sessions)


@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_commit_that_takes_long_or_whose_answer_is_lost_is_the_end_of_its_job(
    settings: ChassisSettings, is_answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job
    async def add(session: AsyncSession) -> None:
        session.add(Item(name="once"))

    results: list[str] = []
    commit = AsyncSession.commit

    async def commit_badly(session: AsyncSession) -> None:
        await commit(session)
        task = asyncio.current_task()
        if task is not None and task.get_name().startswith("job "):
            # Its row is no longer the worker's to renew.
            await asyncio.sleep(1)
            if not is_answered:
                raise OperationalError("COMMIT", {}, ConnectionResetError())

    monkeypatch.setattr(AsyncSession, "commit", commit_badly)
    app = create_stock(changed(settings, jobs_lease_seconds=1), jobs=(add,))
    async with started(app):
        sessions: Sessions = app.state.sessions
        app.jobs.worker.observe = lambda name, result, seconds: results.append(result)  # type: ignore[attr-defined]
        async with session_scope(sessions.write) as session:
            await add.enqueue(session)
            await session.commit()
        async with asyncio.timeout(30):
            while not results:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        # Until that is reported, too.
        await asyncio.sleep(0.5)
        [row] = await read_jobs(sessions)
    assert results == ["done" if is_answered else "retried"]
    assert (row.state, row.attempts, row.error) == (JobState.DONE, 1, None)


async def test_at_the_stop_nothing_is_begun_any_more(settings: ChassisSettings) -> None:
    begun: list[int] = []
    has_begun = asyncio.Event()

    @job
    async def stay(number: int) -> None:
        begun.append(number)
        has_begun.set()
        # The first makes room while the second still runs.
        await asyncio.sleep(0.3 + number)

    app = create_stock(changed(settings, jobs_concurrency=2), jobs=(stay,))
    async with started(app):
        async with session_scope(app.state.sessions.write) as session:
            for number in range(3):
                await stay.enqueue(session, number=number)
            await session.commit()
        await asyncio.wait_for(has_begun.wait(), 30)
    async with open_sessions(settings) as sessions:
        states = [row.state for row in await read_jobs(sessions)]
    assert begun == [0, 1]
    assert states == [JobState.DONE, JobState.DONE, JobState.WAITING]


async def test_a_job_whose_workers_die_is_dead_without_one_run_more(
    settings: ChassisSettings,
) -> None:
    begun: list[int] = []

    @job(retries=2)
    async def kill(number: int) -> None:
        begun.append(number)

    app = create_stock(changed(settings, jobs_in_server=False), jobs=(kill,))
    rows = await run(
        app,
        *(make_job(name="kill", arguments={"number": each}, attempts=each) for each in (2, 3)),
    )
    assert begun == [2]
    assert [row.state for row in rows] == [JobState.DONE, JobState.DEAD]
    assert rows[1].error == "its worker died"


def read_pauses(rows: Iterable[JobRecord]) -> list[timedelta]:
    """Give for how long jobs wait after they began."""
    return [row.run_at - row.started_at for row in rows if row.started_at is not None]


@pytest.mark.parametrize(("attempts", "longest"), [(1, 10), (3, 40), (9, 2560), (30, 3600)])
async def test_a_job_that_fails_again_waits_twice_as_long_an_hour_at_most_and_not_beside_others(
    settings: ChassisSettings, attempts: int, longest: int
) -> None:
    @job(retries=50)
    async def fail() -> None:
        raise LookupError

    app = create_stock(changed(settings, jobs_in_server=False), jobs=(fail,))
    failed = [make_job(name="fail", arguments={}, attempts=attempts - 1) for _ in range(10)]
    pauses = read_pauses(await run(app, *failed))
    shortest, slack = timedelta(seconds=longest / 2), timedelta(seconds=5)
    assert len(pauses) == 10
    assert shortest <= min(pauses) <= max(pauses) <= 2 * shortest + slack
    assert max(pauses) - min(pauses) > shortest / 20
