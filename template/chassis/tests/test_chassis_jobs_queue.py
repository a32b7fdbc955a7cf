"""Statements of the queue in transactions at once: each takes what no other has."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from chassis_job_records import make_job, store
from chassis_stock import create_tables, only_on
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import ChassisSettings
from chassis.db import Sessions, open_sessions, session_scope
from chassis.jobs import JobRecord, JobState, clock, records
from chassis.jobs.queue import Claim, claim_jobs, lock_claim, reap_jobs
from chassis.jobs.records import delete_ended
from chassis.tasks import Stop

pytestmark = pytest.mark.anyio

LEASE, EXPIRED = timedelta(minutes=1), timedelta(minutes=-1)


@pytest.fixture
async def sessions(settings: ChassisSettings) -> AsyncIterator[Sessions]:
    only_on("postgres", settings)  # SQLite has one transaction at a time that writes
    create_tables(settings)
    async with open_sessions(settings) as opened:
        yield opened


async def add(sessions: Sessions, *jobs: JobRecord) -> None:
    async with session_scope(sessions.write) as session:
        await store(session, *jobs)


async def claim(session: AsyncSession, lease: timedelta = LEASE, **options: Any) -> list[Claim]:
    return await claim_jobs(session, "default", ["send_receipt"], 1, lease=lease, **options)


async def test_two_transactions_claim_two_jobs_and_neither_waits(sessions: Sessions) -> None:
    await add(sessions, make_job(), make_job())
    async with session_scope(sessions.write) as first, session_scope(sessions.write) as second:
        claimed = await claim(first)
        async with asyncio.timeout(30):
            claimed += await claim(second)
            third = await reap_and_claim(sessions)
        await first.commit()
        await second.commit()
    assert len({each.id for each in claimed}) == 2
    assert third == []


async def reap_and_claim(sessions: Sessions) -> list[Claim]:
    async with session_scope(sessions.write) as session:
        await reap_jobs(session)
        claimed = await claim(session)
        await session.commit()
    return claimed


async def test_a_limit_counts_what_another_transaction_claims_at_the_same_time(
    sessions: Sessions,
) -> None:
    await add(sessions, make_job(), make_job())

    async def claim_second() -> list[Claim]:
        async with session_scope(sessions.write) as session:
            claimed = await claim(session, limit=1)
            await session.commit()
        return claimed

    async with session_scope(sessions.write) as session:
        assert len(await claim(session, limit=1)) == 1
        second = asyncio.create_task(claim_second())
        await asyncio.wait([second], timeout=0.3)
        assert not second.done()
        await session.commit()
    assert await second == []


async def test_no_other_worker_has_a_job_while_its_own_commits(sessions: Sessions) -> None:
    await add(sessions, make_job())
    async with session_scope(sessions.write) as session:
        [claimed] = await claim(session, EXPIRED)
        await session.commit()
    async with session_scope(sessions.write) as session:
        assert await session.scalar(lock_claim(claimed)) is not None
        assert await reap_and_claim(sessions) == []
        await session.commit()
    assert [each.fence for each in await reap_and_claim(sessions)] == [2]


async def test_a_job_that_is_retried_at_the_same_moment_is_not_deleted(sessions: Sessions) -> None:
    await add(sessions, *(make_job(JobState.DEAD) for _ in range(3)))
    async with session_scope(sessions.write) as session:
        retried = (await session.scalars(select(JobRecord).limit(1).with_for_update())).one()
        retried.state, retried.finished_at = JobState.WAITING, None
        await session.flush()
        keep = datetime.now(UTC) - retried.created_at - timedelta(days=1)
        async with asyncio.timeout(30):
            assert await delete_ended(sessions, keep, Stop()) == 2
        await session.commit()
    async with session_scope(sessions.read) as session:
        assert [row.id for row in await session.scalars(select(JobRecord))] == [retried.id]


async def test_a_clock_that_is_ahead_deletes_nothing(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=365)

    for module in (records, clock):
        monkeypatch.setattr(module, "datetime", Ahead)
    await add(sessions, make_job(JobState.DONE, finished_at=datetime.now(UTC)))
    assert await delete_ended(sessions, timedelta(days=1), Stop()) == 0
