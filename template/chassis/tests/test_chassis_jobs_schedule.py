"""Schedules: right across both changes of summer time, and one run a tick however many workers."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from chassis_stock import create_tables, started
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import ChassisSettings, create_app
from chassis.db import Sessions, open_sessions, session_scope
from chassis.jobs import JobRecord, every, job, schedule
from chassis.jobs.schedule import JobSchedule, Schedule, Scheduled, enqueue_due, register_schedules
from chassis.tasks import Stop

pytest.importorskip("cronsim", reason="needs the extra `jobs`")

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YEAR = datetime(2026, 1, 1, tzinfo=BERLIN)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
# Clocks go from 02:00 to 03:00 on the first, and from 03:00 to 02:00 on the second.
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)
WORKERS = 3


def make_job(cron: str, timezone: str = "Europe/Berlin", **options: Any) -> Scheduled:
    """Make a job with a schedule."""

    @every(cron, timezone=timezone, **options)
    @job
    async def clean_up() -> None: ...

    assert clean_up.schedule is not None
    return clean_up, clean_up.schedule


def find_ticks(cron: str, start: date, days: int = 1) -> list[str]:
    """Find the ticks of some days in Berlin, as its clocks have them."""
    begin = datetime(start.year, start.month, start.day, tzinfo=BERLIN)
    end = begin + timedelta(days=days)
    found, moment = [], begin - SECOND
    while (moment := Schedule(cron, "Europe/Berlin", "once").find_next(moment)) < end:
        found.append(f"{moment.astimezone(BERLIN):%H:%M%z}"[:-2])
    return found


@pytest.fixture
async def workers(settings: ChassisSettings) -> AsyncIterator[list[Sessions]]:
    """Give the sessions of three workers, each with engines of its own."""
    create_tables(settings)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_sessions(settings)) for _ in range(WORKERS)]


async def finish_jobs(sessions: Sessions) -> int:
    """Do what was enqueued. Return how many jobs there were."""
    done = update(JobRecord).where(JobRecord.state == "waiting").values(state="done")
    async with session_scope(sessions.write) as session:
        found = (await session.scalars(done.returning(JobRecord.id))).all()
        await session.commit()
    return len(found)


async def count_jobs(sessions: Sessions) -> int:
    async with session_scope(sessions.read) as session:
        return await session.scalar(select(func.count()).select_from(JobRecord)) or 0


async def read_last_tick(sessions: Sessions) -> datetime:
    async with session_scope(sessions.read) as session:
        return (await session.scalars(select(JobSchedule.last_tick))).one()


@pytest.mark.parametrize(
    ("cron", "day", "ticks"),
    [
        ("30 2 * * *", SPRING, ["03:00+02"]),
        ("0,30 2 * * *", SPRING, ["03:00+02"]),
        ("30 2 * * *", AUTUMN, ["02:30+02"]),
        ("30 1-3 * * *", AUTUMN, ["01:30+02", "02:30+02", "03:30+01"]),
        ("0 3 * * *", SPRING, ["03:00+02"]),
        ("0 3 * * *", AUTUMN, ["03:00+01"]),
        ("*/30 2 * * *", SPRING, []),
        ("*/30 2 * * *", AUTUMN, ["02:00+02", "02:30+02", "02:00+01", "02:30+01"]),
    ],
)
def test_a_day_with_a_change_of_summer_time_has_the_ticks_of_cron(
    cron: str, day: date, ticks: list[str]
) -> None:
    assert find_ticks(cron, day) == ticks


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (AUTUMN, 25), (date(2026, 7, 1), 24)])
def test_each_hour_that_there_is_has_one_tick(day: date, hours: int) -> None:
    assert len(find_ticks("5 * * * *", day)) == hours


def test_ticks_of_every_quarter_of_an_hour_are_as_far_apart_all_year() -> None:
    schedule = Schedule("*/15 * * * *", "Europe/Berlin", "once")
    ticks = [NEW_YEAR]
    while ticks[-1] < NEW_YEAR + 365 * DAY:
        ticks.append(schedule.find_next(ticks[-1]))
    assert {later - earlier for earlier, later in pairwise(ticks)} == {timedelta(minutes=15)}


def test_the_last_tick_is_found_from_within_the_hour_that_comes_twice() -> None:
    schedule = Schedule("30 2 * * *", "Europe/Berlin", "once")
    tick = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    for minutes in range(0, 60, 7):
        now = datetime(2026, 10, 25, 1, minutes, tzinfo=UTC)
        assert schedule.find_due(tick - DAY, now) == tick
        assert schedule.find_due(tick, now) is None
        assert schedule.find_next(now) == tick + DAY + timedelta(hours=1)


def test_of_many_ticks_that_were_missed_the_last_is_found_soon() -> None:
    minutely = Schedule("* * * * *", "UTC", "once")
    yearly = Schedule("0 3 1 1 *", "UTC", "once")
    now = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
    assert minutely.find_due(now - 3650 * DAY, now) == now.replace(second=0)
    assert yearly.find_due(now - 3650 * DAY, now) == datetime(2026, 1, 1, 3, tzinfo=UTC)


async def test_three_workers_run_each_tick_of_a_year_once(
    workers: list[Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [make_job("30 2 * * *")]
    enqueue = jobs[0][0].enqueue

    async def enqueue_without_key(session: AsyncSession, key: str) -> int:
        # With the key, a second job of a tick would not be seen while the first waits.
        return await enqueue(session)

    monkeypatch.setattr(jobs[0][0], "enqueue", enqueue_without_key)
    for sessions in workers:
        await register_schedules(jobs, sessions, NEW_YEAR)
    for number in range(365):
        day = date(2026, 1, 1) + number * DAY
        # In spring there is no 02:30; in autumn the first of two is meant, which `fold` is too.
        hour, minute = (3, 0) if day == SPRING else (2, 30)
        tick = datetime(day.year, day.month, day.day, hour, minute, tzinfo=BERLIN).astimezone(UTC)
        for moment, count in find_moments(day, tick):
            await asyncio.gather(*(enqueue_due(jobs, sessions, moment) for sessions in workers))
            assert await count_jobs(workers[0]) == number + count, moment
        assert await read_last_tick(workers[0]) == tick, day


def find_moments(day: date, tick: datetime) -> list[tuple[datetime, int]]:
    """Find when workers look at the clock, and how many jobs they have enqueued by then."""
    if min(abs(day - SPRING), abs(day - AUTUMN)) > DAY:
        return [(tick, 1)]
    minutes = range(-120, 121, 10)
    return [(tick + late * 60 * SECOND, int(late >= 0)) for late in minutes]


@pytest.mark.parametrize(
    ("missed", "late", "runs"),
    [
        ("once", timedelta(seconds=50), 1),
        ("never", timedelta(seconds=50), 1),
        ("once", timedelta(days=3, hours=2), 1),
        ("never", timedelta(days=3, hours=2), 0),
    ],
)
async def test_ticks_that_were_missed_are_made_up_for_once_or_never(
    workers: list[Sessions],
    caplog: pytest.LogCaptureFixture,
    missed: schedule.Missed,
    late: timedelta,
    runs: int,
) -> None:
    jobs = [make_job("30 2 * * *", missed=missed)]
    await register_schedules(jobs, workers[0], NEW_YEAR)
    now = NEW_YEAR + timedelta(hours=2, minutes=30) + late
    for _ in range(2):
        # The second time as after a start, which is none of a new schedule.
        await register_schedules(jobs, workers[0], now)
        await enqueue_due(jobs, workers[0], now)
    assert await finish_jobs(workers[0]) == runs
    was_missed = late > timedelta(minutes=1)
    told = [record.getMessage() for record in caplog.records if record.name == schedule.__name__]
    assert len(told) == was_missed
    if was_missed:
        outcome = "made up for" if runs else "left out"
        assert told[0] == (
            f"the job clean_up missed its tick of 2026-01-04 01:30:00+00:00, which is {outcome}"
        )


async def test_a_new_or_changed_schedule_begins_with_its_next_tick(workers: list[Sessions]) -> None:
    now = NEW_YEAR + timedelta(hours=12)
    await register_schedules([make_job("0 3 * * MON")], workers[0], NEW_YEAR)
    daily = [make_job("0 3 * * *")]
    await register_schedules(daily, workers[0], now)
    await enqueue_due(daily, workers[0], now + timedelta(hours=1))
    assert await finish_jobs(workers[0]) == 0
    await enqueue_due(daily, workers[0], now + DAY)
    assert await finish_jobs(workers[0]) == 1


async def test_a_job_that_still_waits_is_not_enqueued_again(workers: list[Sessions]) -> None:
    jobs = [make_job("* * * * *")]
    await register_schedules(jobs, workers[0], NEW_YEAR)
    for minutes in (1, 2, 3):
        await enqueue_due(jobs, workers[0], NEW_YEAR + timedelta(minutes=minutes))
    assert await finish_jobs(workers[0]) == 1


async def test_a_clock_that_is_set_back_brings_no_tick_twice(workers: list[Sessions]) -> None:
    jobs = [make_job("*/30 * * * *")]
    await register_schedules(jobs, workers[0], NEW_YEAR)
    runs = []
    for minutes in (60, 0, 30, 60, 89, 90):
        await enqueue_due(jobs, workers[0], NEW_YEAR + timedelta(minutes=minutes))
        runs.append(await finish_jobs(workers[0]))
    assert runs == [1, 0, 0, 0, 0, 1]


async def test_a_tick_whose_enqueue_fails_is_not_taken(
    workers: list[Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [make_job("0 3 * * *")]
    await register_schedules(jobs, workers[0], NEW_YEAR)

    async def fail(*_: object, **__: object) -> int:
        raise OSError("full")

    now = NEW_YEAR + timedelta(hours=3)
    with monkeypatch.context() as context:
        context.setattr(jobs[0][0], "enqueue", fail)
        with pytest.raises(OSError, match="full"):
            await enqueue_due(jobs, workers[0], now)
    await enqueue_due(jobs, workers[1], now)
    assert await finish_jobs(workers[0]) == 1


async def test_the_loop_waits_for_the_next_tick_and_ends_at_the_stop(
    workers: list[Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ["before", "at", "after"]
    seen: list[str] = []

    async def enqueue(*_: object) -> None:
        seen.append(clock.pop(0))
        if not clock:
            stop.set()

    monkeypatch.setattr(schedule, "enqueue_due", enqueue)
    monkeypatch.setattr(schedule, "LONGEST_WAIT", timedelta(milliseconds=10))
    stop = Stop()
    await asyncio.wait_for(schedule.run_schedules([make_job("0 3 1 1 *")], workers[0], stop), 30)
    assert seen == ["before", "at", "after"]


async def test_an_application_runs_its_schedules(settings: ChassisSettings) -> None:
    create_tables(settings)
    done = asyncio.Event()

    @every("0 3 * * *")
    @job
    async def clean_up() -> None:
        done.set()

    app = create_app(settings, package="sample", jobs=[clean_up])
    async with started(app):
        await until_registered(app.state.sessions)
        assert not done.is_set()
        yesterday = update(JobSchedule).values(last_tick=datetime.now(UTC) - DAY)
        async with session_scope(app.state.sessions.write) as session:
            await session.execute(yesterday)
            await session.commit()
    # As after a night in which it did not run.
    async with started(app):
        await asyncio.wait_for(done.wait(), 30)


async def until_registered(sessions: Sessions) -> None:
    async with asyncio.timeout(30), session_scope(sessions.read) as session:
        while await session.scalar(select(JobSchedule.name)) != "clean_up":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_scheduled_job_needs_no_arguments(settings: ChassisSettings) -> None:
    @every("0 3 * * *")
    @job
    async def clean_up(days: int) -> None: ...

    with pytest.raises(TypeError, match=r"clean_up\.enqueue: days: Field required"):
        create_app(settings, package="sample", jobs=[clean_up])


@pytest.mark.parametrize(
    ("cron", "options", "message"),
    [
        ("0 3 * *", {}, "has five fields: minute, hour, day, month, day of the week"),
        ("0 0 3 * * *", {}, "has five fields"),
        ("61 3 * * *", {}, "Bad minute"),
        ("0 3 30 2 *", {}, "Bad day-of-month"),
        ("0 3 * * *", {"timezone": "Europe/Berln"}, "there is no such time zone"),
        ("0 3 * * *", {"timezone": "../etc/passwd"}, "there is no such time zone"),
        ("0 3 * * *", {"missed": "twice"}, 'missed is "once" or "never", not \'twice\''),
    ],
)
def test_a_wrong_schedule_is_an_error_that_names_it(
    cron: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^@every\(") as error:
        make_job(cron, **options)
    assert message in str(error.value)
    assert cron in str(error.value)


def test_a_job_has_one_schedule() -> None:
    with pytest.raises(ValueError, match="the job clean_up has a schedule: write a second job"):
        every("0 4 * * *")(make_job("0 3 * * *")[0])


def test_a_schedule_stands_above_its_job_and_in_a_place() -> None:
    async def clean_up() -> None: ...

    with pytest.raises(TypeError, match="stands above @job, not below it"):
        job(every("0 3 * * *")(clean_up))  # type: ignore[type-var]
    with pytest.raises(ValueError, match="there is no such time zone: Europe/Berlin is one"):
        every("0 3 * * *", timezone="Europe")


def test_a_schedule_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ImportError, match=r"uv add 'service-chassis\[jobs\]'"):
        make_job("0 3 * * *")
