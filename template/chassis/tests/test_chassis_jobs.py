"""Jobs: written down in a transaction, done after it, once, and given up with a reason."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import pytest
from chassis_stock import Item, changed, create_tables, started
from fastapi import APIRouter, Depends, FastAPI, Request
from sqlalchemy import select, update

from chassis import ChassisSettings, create_app, request_id
from chassis.db import DbSession, Sessions, session_scope
from chassis.jobs import Job, JobRecord, JobState, job

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 30


class Courier:
    """What a lifespan makes for jobs and handlers."""

    def __init__(self) -> None:
        self.sent: list[Any] = []


def get_courier(request: Request) -> Courier:
    courier: Courier = request.state.courier
    return courier


CurrentCourier = Annotated[Courier, Depends(get_courier)]


@job
async def send(item_id: int, courier: CurrentCourier, on: date = date(2026, 1, 1)) -> None:
    courier.sent.append((item_id, on, request_id()))


@job(queue="slow", retries=1)
async def fail(secret: str, settings: ChassisSettings) -> None:
    raise LookupError(secret)


@job
async def rename(item_id: int, session: DbSession) -> None:
    await session.execute(update(Item).where(Item.id == item_id).values(name="renamed"))


@job(timeout_seconds=0.05, retries=0)
async def linger() -> None:
    await asyncio.sleep(60)


router = APIRouter()


@router.post("/items")
async def add_item(session: DbSession, commit: bool = True) -> int:
    item = Item(name=None)
    session.add(item)
    await session.flush()
    await send.enqueue(session, item_id=item.id)
    if commit:
        await session.commit()
    else:
        await session.rollback()
    return item.id


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    create_tables(settings)
    return changed(settings, jobs_poll_seconds=0.05)


def service(
    settings: ChassisSettings, courier: Courier, jobs: Sequence[Job[...]] = (send, fail, rename)
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"courier": courier}

    return create_app(
        settings, package="sample", routers=[router], lifespan=lifespan, jobs=list(jobs)
    )


async def find_rows(sessions: Sessions) -> list[JobRecord]:
    async with session_scope(sessions.read) as session:
        return list(await session.scalars(select(JobRecord).order_by(JobRecord.id)))


async def until_state(sessions: Sessions, *states: JobState) -> list[JobRecord]:
    """Wait until the jobs are in these states, in the order of their ids."""
    return await until(sessions, lambda rows: [row.state for row in rows] == list(states))


async def until(sessions: Sessions, is_met: Callable[[list[JobRecord]], bool]) -> list[JobRecord]:
    """Wait until the rows are as they should be."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_met(rows := await find_rows(sessions)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return rows


async def enqueue(sessions: Sessions, job: Job[...], **arguments: Any) -> int:
    async with session_scope(sessions.write) as session:
        job_id = await job.enqueue(session, **arguments)
        await session.commit()
    return job_id


async def test_a_job_of_a_request_runs_after_its_commit_with_its_id_and_what_the_lifespan_yields(
    settings: ChassisSettings,
) -> None:
    courier = Courier()
    app = service(settings, courier)
    async with started(app) as client:
        await client.post("/items", params={"commit": False})
        item = (await client.post("/items", headers={"X-Request-ID": "abc"})).json()
        (row,) = await until_state(app.state.sessions, JobState.DONE)
    assert courier.sent == [(item, date(2026, 1, 1), "abc")]
    assert (row.name, row.queue, row.attempts, row.error) == ("send", "default", 1, None)
    assert row.created_at <= (row.started_at or row.created_at) <= datetime.now(UTC)
    assert row.finished_at is not None
    assert row.lease_until is None


async def test_a_job_that_fails_waits_longer_each_time_and_is_dead_at_last_without_its_values(
    settings: ChassisSettings,
) -> None:
    app = service(settings, Courier())
    async with started(app):
        sessions: Sessions = app.state.sessions
        await enqueue(sessions, fail, secret="pa55")
        (row,) = await until(sessions, lambda rows: rows[0].error is not None)
        assert (row.state, row.attempts) == (JobState.WAITING, 1)
        assert timedelta(seconds=3) < row.run_at - datetime.now(UTC) <= timedelta(seconds=10)
        async with session_scope(sessions.write) as session:
            await session.execute(update(JobRecord).values(run_at=datetime.now(UTC)))
            await session.commit()
        (row,) = await until_state(sessions, JobState.DEAD)
    assert row.attempts == 2
    assert row.error is not None
    assert row.error.startswith("LookupError at test_chassis_jobs.py:")


async def test_what_a_job_writes_is_committed_with_its_end(settings: ChassisSettings) -> None:
    app = service(settings, Courier())
    async with started(app) as client:
        await client.post("/items")
        item = (await client.post("/items")).json()
        await enqueue(app.state.sessions, rename, item_id=item)
        await until_state(app.state.sessions, *[JobState.DONE] * 3)
        async with session_scope(app.state.sessions.read) as session:
            assert await session.scalar(select(Item.name).where(Item.id == item)) == "renamed"


async def test_a_job_that_takes_too_long_is_cancelled(settings: ChassisSettings) -> None:
    app = service(settings, Courier(), [linger])
    async with started(app):
        await enqueue(app.state.sessions, linger)
        (row,) = await until_state(app.state.sessions, JobState.DEAD)
    assert row.error == "it took longer than 0.05 s"


async def test_a_key_is_of_one_job_until_that_has_begun(settings: ChassisSettings) -> None:
    settings = changed(settings, jobs_in_server=False)
    app = service(settings, Courier())
    async with started(app):
        sessions: Sessions = app.state.sessions
        first = await enqueue(sessions, send, item_id=1, key="a")
        assert await enqueue(sessions, send, item_id=2, key="a") == first
        assert await enqueue(sessions, send, item_id=3, key="b") != first
        async with session_scope(sessions.write) as session:
            begun = update(JobRecord).where(JobRecord.id == first)
            await session.execute(begun.values(state=JobState.RUNNING, fence=1))
            await session.commit()
        later = await enqueue(sessions, send, item_id=4, key="a")
        assert later != first
        # Its next try does not stand in the other one's way.
        async with session_scope(sessions.write) as session:
            begun = update(JobRecord).where(JobRecord.id == first)
            await session.execute(begun.values(state=JobState.WAITING))
            await session.commit()
        assert len(await find_rows(sessions)) == 3
