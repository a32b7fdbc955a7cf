"""Enqueue: part of its transaction, whatever that is, and of what both databases hold."""

import asyncio
import math
from typing import Any

import pytest
from chassis_stock import changed, create_stock, create_tables, started
from sqlalchemy import delete, select

from chassis import ChassisSettings
from chassis.db import ReadOnlySessionError, Sessions, open_sessions, session_scope
from chassis.db.errors import InvalidValueError, find_invalid_value
from chassis.jobs import JobRecord, job

pytestmark = pytest.mark.anyio


@job
async def take(value: Any) -> None: ...


@job
async def weigh(value: float) -> None: ...


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    create_tables(settings)
    return settings


async def read_arguments(sessions: Sessions) -> list[dict[str, Any]]:
    async with session_scope(sessions.read) as session:
        return list(await session.scalars(select(JobRecord.arguments).order_by(JobRecord.id)))


async def test_a_savepoint_takes_its_jobs_along_and_its_end_is_no_commit(
    settings: ChassisSettings,
) -> None:
    ran: list[int] = []
    done = asyncio.Event()

    @job
    async def run(value: int) -> None:
        ran.append(value)
        done.set()

    # Whoever is not woken would come too late.
    app = create_stock(changed(settings, jobs_poll_seconds=3600), jobs=(run,))
    async with started(app):
        async with session_scope(app.state.sessions.write) as session:
            async with session.begin_nested() as savepoint:
                await run.enqueue(session, value=1)
                await savepoint.rollback()
            async with session.begin_nested():
                await run.enqueue(session, value=2)
            # Long enough for a worker that was woken to find nothing, and to wait again.
            await asyncio.sleep(0.3)
            await session.commit()
        await asyncio.wait_for(done.wait(), 30)
    assert ran == [2]


async def test_a_read_session_enqueues_nothing(settings: ChassisSettings) -> None:
    async with open_sessions(settings) as sessions, session_scope(sessions.read) as session:
        with pytest.raises(ReadOnlySessionError):
            await take.enqueue(session, value=1)


@pytest.mark.parametrize("is_committed", [True, False])
async def test_of_two_transactions_with_one_key_at_once_the_later_has_the_job_of_the_earlier(
    settings: ChassisSettings, is_committed: bool
) -> None:
    has_enqueued = asyncio.Event()

    async def enqueue_first() -> int:
        async with session_scope(sessions.write) as session:
            found = await take.enqueue(session, value="first", key="a")
            has_enqueued.set()
            # As long as the other one needs to get in its way.
            await asyncio.sleep(0.3)
            await (session.commit() if is_committed else session.rollback())
        return found

    async def enqueue_second() -> int:
        await has_enqueued.wait()
        async with session_scope(sessions.write) as session:
            found = await take.enqueue(session, value="second", key="a")
            await session.commit()
        return found

    async with open_sessions(settings) as sessions:
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(enqueue_first()), group.create_task(enqueue_second())
        stored = await read_arguments(sessions)
    assert stored == [{"value": "first" if is_committed else "second"}]
    assert not is_committed or first.result() == second.result()


@pytest.mark.parametrize(
    ("wrong", "value"),
    [(weigh, math.inf), (take, ["a\0b"]), (take, {"\0": 1}), (take, "\ud800")],
)
async def test_a_value_that_one_database_does_not_hold_is_refused_by_both(
    settings: ChassisSettings, wrong: Any, value: Any
) -> None:
    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        with pytest.raises(Exception, match="no JSON of a database") as raised:
            await wrong.enqueue(session, value=value)
        # It is not equal to itself.
        with pytest.raises(TypeError, match="JSON would bring back another value"):
            await weigh.enqueue(session, value=math.nan)
    assert find_invalid_value(raised.value) is not None


@pytest.mark.parametrize("value", [10**400, -(2**63), r"\u0000", "\\\\u0000", "ü\x01", {"1": None}])
async def test_a_value_comes_as_it_was_enqueued(settings: ChassisSettings, value: Any) -> None:
    async with open_sessions(settings) as sessions:
        async with session_scope(sessions.write) as session:
            await take.enqueue(session, value=value)
            await session.commit()
        [stored] = await read_arguments(sessions)
    assert take.load_arguments(stored) == {"value": value}


async def test_what_its_column_has_no_room_for_is_refused_by_both(
    settings: ChassisSettings,
) -> None:
    async def function() -> None: ...

    with pytest.raises(InvalidValueError, match=r"name of a job has 200 .*, not 201: nnnn"):
        job(name="n" * 201)(function)
    with pytest.raises(InvalidValueError, match="queue of a job has 100 characters at most"):
        job(queue="q" * 101)(function)
    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        await take.enqueue(session, value=1, key="ü" * 200)
        with pytest.raises(InvalidValueError, match="key of a job has 200 characters at most"):
            await take.enqueue(session, value=1, key="k" * 201)


async def test_a_job_of_another_release_is_dead_with_what_does_not_fit(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async def old(order_id: int) -> None: ...

    async def new(order: str) -> None: ...

    app = create_stock(settings, jobs=(job(name="send", retries=0)(new),))
    async with open_sessions(settings) as sessions:
        async with session_scope(sessions.write) as session:
            await job(name="send")(old).enqueue(session, order_id=7)
            await session.commit()
        async with started(app):
            dead = select(JobRecord.error).where(JobRecord.state == "dead")
            async with asyncio.timeout(30), session_scope(sessions.read) as session:
                while (error := await session.scalar(dead)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    assert error == (
        "RetryableError: its arguments are of another release: "
        "order: Field required; order_id: Extra inputs are not permitted"
    )
    assert "Traceback" not in caplog.text


async def test_the_id_of_a_deleted_job_is_not_given_again(settings: ChassisSettings) -> None:
    async with open_sessions(settings) as sessions, session_scope(sessions.write) as session:
        first = await take.enqueue(session, value=1)
        await session.execute(delete(JobRecord))
        assert await take.enqueue(session, value=2) > first
