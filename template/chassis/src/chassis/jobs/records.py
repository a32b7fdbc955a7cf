"""What stands in the table of jobs: to list it, to retry and cancel jobs, to delete old ones."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, func, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.errors import describe_error, is_missing_table, is_transient
from ..db.sessions import Sessions, session_scope
from ..http.stopping import Stop
from .clock import moment_after
from .model import JobRecord, JobState

logger = logging.getLogger(__name__)

ENDED = (JobState.DONE, JobState.DEAD, JobState.CANCELLED)
# A job that is done is not done again, and one that runs is at it.
MAY_BE_RETRIED = (JobState.WAITING, JobState.DEAD, JobState.CANCELLED)
MAY_BE_CANCELLED = (JobState.WAITING, JobState.RUNNING)
DELETED_AT_ONCE = 500
SECONDS_BETWEEN_CLEAN_UPS = 3600.0


class JobCount(NamedTuple):
    """How many jobs of a name are due or run, and since when the oldest is due."""

    name: str
    due: int
    oldest: datetime | None
    running: int


async def find_jobs(
    session: AsyncSession,
    *,
    state: JobState | None = None,
    name: str | None = None,
    queue: str | None = None,
    limit: int,
) -> Sequence[JobRecord]:
    """Return the newest jobs of a state, a name and a queue, of each if it is None."""
    given = {"state": state, "name": name, "queue": queue}
    wanted = {field: value for field, value in given.items() if value is not None}
    newest = select(JobRecord).filter_by(**wanted).order_by(JobRecord.id.desc()).limit(limit)
    return (await session.scalars(newest)).all()


async def retry_jobs(session: AsyncSession, *wanted: ColumnElement[bool]) -> set[int]:
    """Make jobs due now, with all their retries. Return the ids of those that could be."""
    retried = (
        update(JobRecord)
        .where(*wanted, _is_in(*MAY_BE_RETRIED))
        .values(
            state=JobState.WAITING,
            run_at=moment_after(session),
            attempts=0,
            # It waits beside one of its key that was enqueued meanwhile.
            fence=JobRecord.fence + 1,
            finished_at=None,
        )
        .returning(JobRecord.id)
    )
    return set(await session.scalars(retried))


async def cancel_jobs(session: AsyncSession, *wanted: ColumnElement[bool]) -> set[int]:
    """Cancel jobs; one that runs can't commit any more. Return the ids of those that could be."""
    cancelled = (
        update(JobRecord)
        .where(*wanted, _is_in(*MAY_BE_CANCELLED))
        .values(state=JobState.CANCELLED, finished_at=moment_after(session), lease_until=None)
        .returning(JobRecord.id)
    )
    return set(await session.scalars(cancelled))


async def find_states(session: AsyncSession, ids: Sequence[int]) -> dict[int, str]:
    """Return the states of those jobs that are there."""
    found = select(JobRecord.id, JobRecord.state).where(JobRecord.id.in_(ids))
    return dict(list(await session.execute(found)))


async def count_jobs(session: AsyncSession) -> list[JobCount]:
    """Count what is due and what runs, of each name that has any."""
    due = (
        select(JobRecord.name, func.count(), func.min(JobRecord.run_at))
        .where(_is_in(JobState.WAITING), JobRecord.run_at <= moment_after(session))
        .group_by(JobRecord.name)
    )
    running = (
        select(JobRecord.name, func.count())
        .where(_is_in(JobState.RUNNING))
        .group_by(JobRecord.name)
    )
    oldest = {name: (count, since) for name, count, since in await session.execute(due)}
    busy = dict(list(await session.execute(running)))
    found = []
    for name in sorted(oldest.keys() | busy.keys()):
        count, since = oldest.get(name, (0, None))
        found.append(JobCount(name, count, since, busy.get(name, 0)))
    return found


async def count_dead(session: AsyncSession) -> int:
    """Count the jobs that nobody runs again by themselves."""
    # The index of what has ended: metrics ask every few seconds, and a million may be done.
    has_ended = JobRecord.finished_at.is_not(None)
    dead = select(func.count()).where(_is_in(JobState.DEAD), has_ended)
    return (await session.scalars(dead)).one()


async def count_lost(session: AsyncSession, before: datetime) -> int:
    """Count the jobs that run by a lease which ended earlier: nobody has taken them over."""
    lost = select(func.count()).where(_is_in(JobState.RUNNING), JobRecord.lease_until < before)
    return (await session.scalars(lost)).one()


async def find_last_start(session: AsyncSession, name: str) -> datetime | None:
    """Return when a job of a name last began, of those that run or ended, or None."""
    last = select(func.max(JobRecord.started_at)).where(JobRecord.name == name)
    return await session.scalar(last)


async def clean_up(sessions: Sessions, stop: Stop, *, keep_days: int) -> None:
    """Delete what ended longer ago than it is kept, now and each hour, until the stop."""
    while not stop.is_set():
        try:
            deleted = await delete_ended(sessions, timedelta(days=keep_days), stop)
        except Exception as error:
            # The next one deletes it: no reason to serve no requests.
            bug = None if is_transient(error) or is_missing_table(error) else error
            logger.warning("old jobs were not deleted: %s", describe_error(error), exc_info=bug)
        else:
            if deleted:
                logger.info("%d ended jobs were deleted", deleted)
        await stop.wait(SECONDS_BETWEEN_CLEAN_UPS)


async def delete_ended(sessions: Sessions, keep: timedelta, stop: Stop) -> int:
    """Delete what ended longer ago, a few at a time, so that nobody waits for it. Count them."""
    deleted = 0
    ended = select(JobRecord.id).where(_is_in(*ENDED)).limit(DELETED_AT_ONCE)
    ended = ended.with_for_update(skip_locked=True)
    while not stop.is_set():
        async with session_scope(sessions.write) as session:
            old = ended.where(JobRecord.finished_at < moment_after(session, -keep)).cte("old")
            gone = await session.scalars(
                delete(JobRecord).where(JobRecord.id.in_(select(old.c.id))).returning(JobRecord.id)
            )
            count = len(gone.all())
            await session.commit()
        deleted += count
        if count < DELETED_AT_ONCE:
            break
        # Others write meanwhile, who waited.
        await stop.wait(0.05)
    return deleted


def _is_in(*states: JobState) -> ColumnElement[bool]:
    """Return the condition of some states, by constants: those of the partial indexes."""
    return or_(*(JobRecord.state == literal_column(f"'{state}'") for state in states))
