"""The commands that show jobs, retry and cancel them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from chassis_job_records import NOW, make_job, store
from click.testing import CliRunner, Result
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from chassis import create_cli
from chassis.commands.job_findings import examine_jobs
from chassis.db import Sessions, open_sessions
from chassis.jobs import JobRecord, JobState
from chassis.jobs import records as job_records
from chassis.jobs.records import clean_up, count_jobs, delete_ended
from chassis.settings import ChassisSettings
from chassis.tasks import Stop

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(jobs_table: None, settings: ChassisSettings) -> Invoke:
    return create_invoke(settings)


def create_invoke(settings: ChassisSettings) -> Invoke:
    """Return what runs a command of jobs with the test's settings; a test calls it in a thread."""
    run = create_cli("sample.main:create_service", settings=ChassisSettings)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(run, ["jobs", *arguments], obj=settings)

    return invoke


@pytest.fixture
async def sessions(invoke: Invoke, settings: ChassisSettings) -> AsyncIterator[Sessions]:
    async with open_sessions(settings) as sessions:
        yield sessions


async def read_states(session: AsyncSession) -> list[str]:
    return list(await session.scalars(select(JobRecord.state).order_by(JobRecord.id)))


async def test_jobs_are_listed_by_what_is_asked_for(invoke: Invoke, session: AsyncSession) -> None:
    assert (await asyncio.to_thread(invoke, "list")).output == "no jobs\n"
    await store(
        session,
        make_job(),
        make_job(JobState.DEAD, error="ValueError", attempts=6),
        make_job(name="clean", queue="slow"),
    )
    listed = (await asyncio.to_thread(invoke, "list", "--state=dead")).output.splitlines()
    assert listed[0].split() == ["id", "state", "name", "queue", "attempts", "run_at", "error"]
    [row] = listed[1:]
    moment = "2026-01-02T12:00:00+00:00"
    assert row.split() == ["2", "dead", "send_receipt", "default", "6", moment, "ValueError"]
    for options, ids in (
        ((), [3, 2, 1]),
        (("--limit=2",), [3, 2]),
        (("--name=clean",), [3]),
        (("--queue=default",), [2, 1]),
    ):
        result = await asyncio.to_thread(invoke, "list", "--json", *options)
        assert [job["id"] for job in json.loads(result.output)] == ids
    assert (await asyncio.to_thread(invoke, "list", "--state=lost")).exit_code == 2


async def test_a_job_is_shown_with_all_there_is(invoke: Invoke, session: AsyncSession) -> None:
    await store(session, make_job(key="7"))
    shown = json.loads((await asyncio.to_thread(invoke, "show", "1", "--json")).output)
    assert shown.keys() == set(JobRecord.__table__.columns.keys())
    assert (shown["arguments"], shown["key"]) == ({"order_id": 7}, "7")
    lines = (await asyncio.to_thread(invoke, "show", "1")).output.splitlines()
    assert ["arguments", '{"order_id":', "7}"] in [line.split() for line in lines]

    missing = await asyncio.to_thread(invoke, "show", "9")
    assert (missing.exit_code, missing.output) == (1, "Error: there is no job 9\n")


async def test_a_dead_job_is_retried_with_all_its_retries(
    invoke: Invoke, session: AsyncSession
) -> None:
    dead = make_job(JobState.DEAD, error="ValueError", attempts=6, fence=6)
    later = make_job(run_at=datetime.now(UTC) + timedelta(days=1))
    await store(session, dead, later)
    result = await asyncio.to_thread(invoke, "retry", "1", "2")
    assert (result.exit_code, result.output) == (0, "2 retried\n")
    for job in (dead, later):
        await session.refresh(job)
        assert (job.state, job.attempts, job.finished_at) == (JobState.WAITING, 0, None)
        assert abs(job.run_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (dead.fence, dead.error) == (7, "ValueError")


async def test_what_cannot_be_changed_is_named_and_the_others_are_changed(
    invoke: Invoke, session: AsyncSession
) -> None:
    await store(session, make_job(JobState.DONE), make_job(), make_job(JobState.RUNNING))
    result = await asyncio.to_thread(invoke, "retry", "1", "2", "3", "9")
    assert result.exit_code == 1
    reasons = "not retried: job 1 is done, job 3 is running, job 9 is not there"
    assert result.output == f"1 retried\nError: {reasons}\n"


async def test_jobs_that_wait_or_run_are_cancelled(invoke: Invoke, session: AsyncSession) -> None:
    running = make_job(JobState.RUNNING, lease_until=NOW)
    await store(session, make_job(), running, make_job(JobState.DONE))
    result = await asyncio.to_thread(invoke, "cancel", "1", "2", "3")
    assert result.output == "2 cancelled\nError: not cancelled: job 3 is done\n"
    assert await read_states(session) == ["cancelled", "cancelled", "done"]
    await session.refresh(running)
    assert running.lease_until is None
    assert running.finished_at is not None


async def test_a_cancelled_job_may_wait_beside_one_of_its_key(
    invoke: Invoke, session: AsyncSession
) -> None:
    await store(session, make_job(JobState.CANCELLED, key="7"), make_job(key="7"))
    assert (await asyncio.to_thread(invoke, "retry", "1")).exit_code == 0


async def test_a_service_without_the_table_is_told_what_is_missing(
    settings: ChassisSettings,
) -> None:
    result = await asyncio.to_thread(create_invoke(settings), "list")
    assert result.exit_code == 1
    assert "jobs" in result.output
    assert "migrate first" in result.output


async def test_jobs_are_counted_by_what_is_due(invoke: Invoke, session: AsyncSession) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    await store(
        session,
        make_job(),
        make_job(run_at=NOW - timedelta(hours=1)),
        make_job(run_at=later),
        make_job(JobState.RUNNING, name="clean"),
        make_job(JobState.DONE, name="idle"),
    )
    assert await count_jobs(session) == [
        ("clean", 0, None, 1),
        ("send_receipt", 2, NOW - timedelta(hours=1), 0),
    ]


async def examine(settings: ChassisSettings) -> dict[str, tuple[str, str]]:
    return {one.subject: (one.level, one.message) async for one in examine_jobs(settings)}


async def test_the_doctor_says_nothing_of_jobs_where_there_are_none(
    settings: ChassisSettings, engine: AsyncEngine
) -> None:
    assert await examine(settings) == {}
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE jobs (id integer)"))
    assert await examine(settings) == {}


async def test_the_doctor_finds_what_nobody_works_on(
    invoke: Invoke, settings: ChassisSettings, session: AsyncSession
) -> None:
    now = datetime.now(UTC)
    await store(session, make_job(run_at=now), make_job(JobState.RUNNING, lease_until=now))
    assert await examine(settings) == {"jobs": ("ok", "1 due, 1 running")}

    await store(
        session,
        make_job(),
        make_job(name="clean", run_at=NOW),
        make_job(JobState.DONE, name="clean", started_at=now),
        make_job(JobState.RUNNING, lease_until=NOW),
        make_job(JobState.DEAD),
    )
    since = "the oldest since 2026-01-02 12:00 UTC"
    assert await examine(settings) == {
        "jobs": ("ok", "3 due, 2 running"),
        "jobs, clean": ("warning", f"1 due, {since}; more than is done"),
        "jobs, send_receipt": ("problem", f"2 due, {since}; nobody begins one"),
        "jobs, stuck": ("problem", "1 run by workers that died, and nobody takes them over"),
        "jobs, dead": ("warning", "1 failed for the last time"),
    }


async def test_what_ended_long_ago_is_deleted_in_small_portions(
    sessions: Sessions, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_records, "DELETED_AT_ONCE", 2)
    old, ended = datetime.now(UTC) - timedelta(days=8), (JobState.DONE, JobState.DEAD)
    await store(
        session,
        *(make_job(state, finished_at=old) for state in ended * 3),
        *(make_job(state, finished_at=datetime.now(UTC)) for state in ended),
        make_job(created_at=old),
        make_job(JobState.RUNNING, created_at=old),
    )
    stop = Stop()
    cleaning = asyncio.create_task(clean_up(sessions, stop, keep_days=7))
    async with asyncio.timeout(10):
        while len(await read_states(session)) > 4:
            await session.rollback()
            await asyncio.sleep(0.02)
    stop.set()
    await cleaning
    assert await read_states(session) == ["done", "dead", "waiting", "running"]
    assert await delete_ended(sessions, timedelta(days=7), Stop()) == 0
