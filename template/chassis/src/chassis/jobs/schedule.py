"""Jobs by the clock: each tick of a schedule is enqueued once, however many workers there are."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import String, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from ..db.base import Base
from ..db.sessions import Sessions, session_scope
from ..db.transaction import run_transaction
from ..http.stopping import Stop

if TYPE_CHECKING:
    from .job import AnyJob

JobT = TypeVar("JobT", bound="AnyJob")
Missed = Literal["once", "never"]
Scheduled = tuple["AnyJob", "Schedule"]

logger = logging.getLogger(__name__)

# A tick that is found later than this was missed. A deployment takes less.
PUNCTUAL = timedelta(minutes=1)
# How often the clock is read at least: it may be set, and machines sleep.
LONGEST_WAIT = timedelta(minutes=1)
# Where there are ticks in it, those before it are not looked for: only the last one matters.
_WINDOW = timedelta(days=1)
_INSERT: dict[str, Callable[[type[Base]], postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


class JobSchedule(Base):
    """Up to which tick the schedule of a job was enqueued."""

    __tablename__ = "job_schedules"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    schedule: Mapped[str] = mapped_column(String(200))
    last_tick: Mapped[datetime]


class Schedule:
    """The ticks of a cron expression in a time zone."""

    def __init__(self, cron: str, timezone: str, missed: Missed) -> None:
        self._text = f"@every({cron!r}, timezone={timezone!r})"
        self._cron = cron
        self.missed = missed
        if not (isinstance(cron, str) and isinstance(timezone, str)):
            raise TypeError(f'{self}: is written @every("0 3 * * *", timezone="Europe/Berlin")')
        if len(cron.split()) != 5:
            raise ValueError(f"{self}: has five fields: minute, hour, day, month, day of the week")
        if missed not in ("once", "never"):
            raise ValueError(f'{self}: missed is "once" or "never", not {missed!r}')
        try:
            self.timezone = ZoneInfo(timezone)
        # A part of a name is a folder: Europe.
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{self}: there is no such time zone: Europe/Berlin is one") from None
        # Raises ValueError for what is no time, or never comes.
        self.find_next(datetime.now(UTC))

    def __str__(self) -> str:
        return self._text

    def find_next(self, after: datetime) -> datetime:
        """Return the first tick after a moment, in UTC."""
        return next(self._find_ticks(after))

    def find_due(self, last: datetime, now: datetime) -> datetime | None:
        """Return the last tick that is after another and not after now, if there is one."""
        for start in (max(last, now - _WINDOW), last):
            ticks = list(takewhile(lambda tick: tick <= now, self._find_ticks(start)))
            if ticks:
                return ticks[-1]
        return None

    def _find_ticks(self, after: datetime) -> Iterator[datetime]:
        try:
            from cronsim import CronSim, CronSimError
        except ImportError:
            raise ImportError(
                f"{self}: schedules need the extra service-chassis[jobs]; "
                "uv add 'service-chassis[jobs]'"
            ) from None
        try:
            ticks = CronSim(self._cron, after.astimezone(self.timezone))
            # In the hour that comes twice it begins with those of the first.
            yield from (tick.astimezone(UTC) for tick in ticks if tick > after)
        except CronSimError as error:
            raise ValueError(f"{self}: {error}") from None
        raise ValueError(f"{self}: no such day comes in 50 years")


def every(cron: str, *, timezone: str = "UTC", missed: Missed = "once") -> Callable[[JobT], JobT]:
    """Run a job at each tick of a cron expression: `@every("0 3 * * *")` stands above `@job`.

    A time of day that a change of summer time skips comes right after the change, and one that it
    repeats comes once; with `*` in minutes or hours, ticks go on in real time. After ticks that no
    worker was there for, the job runs `once` or `never`. Raise ValueError for a wrong argument.
    """
    schedule = Schedule(cron, timezone, missed)

    def add_schedule(job: JobT) -> JobT:
        if not hasattr(job, "schedule"):
            raise TypeError(f"{schedule}: stands above @job, not below it")
        if job.schedule is not None:
            raise ValueError(f"{schedule}: the job {job.name} has a schedule: write a second job")
        job.schedule = schedule
        return job

    return add_schedule


async def run_schedules(scheduled: Sequence[Scheduled], sessions: Sessions, stop: Stop) -> None:
    """Enqueue jobs at their ticks until the stop: a loop of each worker."""
    await register_schedules(scheduled, sessions, datetime.now(UTC))
    while not stop.is_set():
        now = datetime.now(UTC)
        await enqueue_due(scheduled, sessions, now)
        following = min(schedule.find_next(now) for _, schedule in scheduled)
        await stop.wait(min(following - datetime.now(UTC), LONGEST_WAIT).total_seconds())


async def register_schedules(
    scheduled: Iterable[Scheduled], sessions: Sessions, now: datetime
) -> None:
    """Note schedules that are new or changed: their first tick is the next one."""
    rows = [
        {"name": job.name, "schedule": str(schedule), "last_tick": now}
        for job, schedule in scheduled
    ]

    async def insert_schedules(session: AsyncSession) -> None:
        insert = _INSERT[session.get_bind().dialect.name](JobSchedule)
        new = insert.excluded
        statement = insert.on_conflict_do_update(
            index_elements=[JobSchedule.name],
            set_={"schedule": new.schedule, "last_tick": new.last_tick},
            where=JobSchedule.schedule != new.schedule,
        )
        await session.execute(statement, rows)

    await run_transaction(sessions.write, insert_schedules)


async def enqueue_due(scheduled: Iterable[Scheduled], sessions: Sessions, now: datetime) -> None:
    """Enqueue the jobs whose ticks have come, unless another worker has done it."""
    async with session_scope(sessions.read) as session:
        rows = await session.execute(select(JobSchedule.name, JobSchedule.last_tick))
        last_ticks = {row.name: row.last_tick for row in rows}
    for job, schedule in scheduled:
        # A replica may not have the row yet.
        tick = schedule.find_due(last_ticks.get(job.name, now), now)
        if tick is not None:
            await _enqueue_tick(job, schedule, sessions, tick, is_missed=now - tick > PUNCTUAL)


async def _enqueue_tick(
    job: "AnyJob", schedule: Schedule, sessions: Sessions, tick: datetime, *, is_missed: bool
) -> None:
    """Take a tick and enqueue its job in one transaction; a tick that was taken is left alone."""
    is_left_out = is_missed and schedule.missed == "never"
    take = (
        update(JobSchedule)
        .where(JobSchedule.name == job.name, JobSchedule.last_tick < tick)
        .values(last_tick=tick)
        .returning(JobSchedule.name)
    )

    async def take_tick(session: AsyncSession) -> bool:
        if await session.scalar(take) is None:
            return False
        if not is_left_out:
            # With a key, a job that still waits gets no second one beside it.
            await job.enqueue(session, key="schedule")
        return True

    if await run_transaction(sessions.write, take_tick) and is_missed:
        outcome = "left out" if is_left_out else "made up for"
        logger.warning("the job %s missed its tick of %s, which is %s", job.name, tick, outcome)
