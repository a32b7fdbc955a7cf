"""The statements of the queue, the same on both databases."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import (
    Interval,
    Select,
    Update,
    bindparam,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.errors import is_missing_table
from .clock import NOW, moment_after
from .model import JOBS, JobState

# As the indexes have them: no planner knows that a parameter is the constant of a partial index.
_IS_WAITING, _IS_RUNNING = text("state = 'waiting'"), text("state = 'running'")
_LOCK_QUEUE = text("SELECT pg_advisory_xact_lock(hashtextextended('chassis jobs ' || :queue, 0))")
REAPED_AT_ONCE = 100
INSERT_TRIES = 20


# Built once: that costs as much as running them. Moments are PostgreSQL's, or passed for SQLite.
_INSERTS = {
    "postgresql": postgresql.insert(JOBS)
    .values(run_at=NOW + bindparam("delay", type_=Interval), created_at=NOW)
    .on_conflict_do_nothing()
    .returning(JOBS.c.id),
    "sqlite": sqlite.insert(JOBS).on_conflict_do_nothing().returning(JOBS.c.id),
}
_SAME_KEY = select(JOBS.c.id).where(
    *(JOBS.c.name == bindparam("name"), JOBS.c.key == bindparam("key")),
    *(_IS_WAITING, JOBS.c.fence == 0),
)


class QueueError(Exception):
    """A queue that can't be used, and what to change."""


class LeaseLostError(Exception):
    """A job outlived its lease, or was cancelled: its work is not committed."""


class NewJob(NamedTuple):
    """What is written down of a job."""

    name: str
    queue: str
    priority: int
    arguments: dict[str, Any]
    context: dict[str, str]
    delay: timedelta = timedelta()
    key: str | None = None


class Claim(NamedTuple):
    """A job that a worker holds, for as long as its row has this number of the fence."""

    id: int
    fence: int
    attempts: int
    name: str
    priority: int
    run_at: datetime
    created_at: datetime
    arguments: dict[str, Any]
    context: dict[str, str]


class Outcome(NamedTuple):
    """What became of a claim. If it waits again, it does so for `delay`."""

    claim: Claim
    state: JobState
    error: str | None = None
    delay: timedelta = timedelta()
    # Whether the run is one of those that the job has.
    counts: bool = True


_CLAIMED = tuple(JOBS.c[name] for name in Claim._fields)


async def insert_job(session: AsyncSession, job: NewJob) -> int:
    """Insert a job. Return its id, or that of the one which waits with its key."""
    insert = _INSERTS.get(session.get_bind().dialect.name)
    if insert is None:
        raise QueueError("jobs need SQLite or PostgreSQL")
    values = job._asdict() | {"state": JobState.WAITING, "attempts": 0, "fence": 0}
    if insert is _INSERTS["sqlite"]:
        now = datetime.now(UTC)
        values |= {"run_at": now + values.pop("delay"), "created_at": now}
    with _explain_missing_table():
        for _ in range(INSERT_TRIES):
            found = await session.scalar(insert, values)
            # The one that is in its way may begin between the two.
            found = found or await session.scalar(_SAME_KEY, {"name": job.name, "key": job.key})
            if found is not None:
                return int(found)
    raise QueueError(f"{job.name} was not enqueued: no other job has its key, yet it is in its way")


async def has_work(session: AsyncSession, queues: Mapping[str, Sequence[str]]) -> bool:
    """Return whether something can be claimed, or was left by a worker that died; write nothing."""
    now = moment_after(session)
    due = select(JOBS.c.id).where(_IS_WAITING, JOBS.c.queue.in_(queues), JOBS.c.run_at <= now)
    due = due.where(JOBS.c.name.in_(chain.from_iterable(queues.values())))
    left = select(JOBS.c.id).where(_IS_RUNNING, JOBS.c.lease_until < now)
    return bool(await session.scalar(select(or_(due.exists(), left.exists()))))


async def claim_jobs(
    session: AsyncSession,
    queue: str,
    names: Sequence[str],
    count: int,
    *,
    lease: timedelta,
    limit: int | None = None,
) -> list[Claim]:
    """Claim the jobs of a queue that come first, at most so many, for the time of a lease.

    Jobs of other names are left to workers that know them. `limit` is how many of the queue may
    run at once, in all processes.
    """
    if limit is not None:
        count = min(count, limit - await _count_running(session, queue))
    if count <= 0:
        return []
    picked = (
        select(JOBS.c.id)
        .where(_IS_WAITING, JOBS.c.queue == queue, JOBS.c.run_at <= moment_after(session))
        .where(JOBS.c.name.in_(names))
        .order_by(JOBS.c.priority, JOBS.c.run_at)
        .limit(count)
        .with_for_update(skip_locked=True)
        .cte("picked")
    )
    claim = (
        update(JOBS)
        .where(JOBS.c.id.in_(select(picked.c.id)))
        .values(state=JobState.RUNNING, started_at=moment_after(session))
        .values(attempts=JOBS.c.attempts + 1, fence=JOBS.c.fence + 1)
        .values(lease_until=moment_after(session, lease))
        .returning(*_CLAIMED)
    )
    claims = [Claim(*row) for row in await session.execute(claim)]
    return sorted(claims, key=lambda claim: (claim.priority, claim.run_at, claim.id))


async def renew_leases(
    session: AsyncSession, claims: Iterable[Claim], lease: timedelta
) -> set[int]:
    """Renew the leases of claims. Return the ids of those that are their worker's still."""
    held = [(claim.id, claim.fence) for claim in claims]
    renewal = (
        update(JOBS)
        .where(_IS_RUNNING, tuple_(JOBS.c.id, JOBS.c.fence).in_(held))
        .values(lease_until=moment_after(session, lease))
        .returning(JOBS.c.id)
    )
    return set(await session.scalars(renewal)) if held else set()


async def reap_jobs(session: AsyncSession) -> int:
    """Let the jobs wait again whose workers died. Return how many were found."""
    now = moment_after(session)
    left = (
        select(JOBS.c.id)
        .where(_IS_RUNNING, JOBS.c.lease_until < now)
        .limit(REAPED_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("left_behind")
    )
    reap = (
        update(JOBS)
        .where(JOBS.c.id.in_(select(left.c.id)))
        .values(state=JobState.WAITING, run_at=now, lease_until=None, error="its worker died")
        .returning(JOBS.c.id)
    )
    return len((await session.scalars(reap)).all())


async def report_outcomes(session: AsyncSession, outcomes: Sequence[Outcome]) -> None:
    """Write down what became of claims, unless their leases were lost."""
    finished = [each for each in outcomes if each.state is not JobState.WAITING]
    if finished:
        finish = _update_claim(
            state=bindparam("new_state"),
            error=bindparam("new_error"),
            finished_at=moment_after(session),
        )
        rows = [
            {"new_state": each.state, "new_error": each.error, **_identify(each.claim)}
            for each in finished
        ]
        await session.execute(finish, rows)
    for each in outcomes:
        if each.state is JobState.WAITING:
            again = _update_claim(
                state=JobState.WAITING,
                run_at=moment_after(session, each.delay),
                attempts=each.claim.attempts - (not each.counts),
                error=each.error,
            )
            await session.execute(again, _identify(each.claim))


async def finish_in_transaction(session: AsyncSession, claim: Claim) -> None:
    """Mark a job as done, in the transaction of its own work. Raise LeaseLostError if it is not."""
    done = _update_claim(state=JobState.DONE, error=None, finished_at=moment_after(session))
    if await session.scalar(done.returning(JOBS.c.id), _identify(claim)) is None:
        raise LeaseLostError


def lock_claim(claim: Claim) -> Select[tuple[int]]:
    """Return the statement that finds a claim's row if it is held still, and keeps it so."""
    found = select(JOBS.c.id).where(_IS_RUNNING, JOBS.c.id == claim.id)
    return found.where(JOBS.c.fence == claim.fence).with_for_update(key_share=True)


def _update_claim(**values: Any) -> Update:
    """Return the statement that ends a claim, if it is its worker's still."""
    is_held = (JOBS.c.id == bindparam("claimed_id")) & (JOBS.c.fence == bindparam("claimed_fence"))
    return update(JOBS).where(is_held, _IS_RUNNING).values(lease_until=None, **values)


def _identify(claim: Claim) -> dict[str, Any]:
    return {"claimed_id": claim.id, "claimed_fence": claim.fence}


async def _count_running(session: AsyncSession, queue: str) -> int:
    """Count the jobs of a queue that run, and let no other worker do so until the commit."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(_LOCK_QUEUE, {"queue": queue})
    running = select(func.count()).select_from(JOBS).where(_IS_RUNNING, JOBS.c.queue == queue)
    return await session.scalar(running) or 0


@contextmanager
def _explain_missing_table() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if is_missing_table(error) and JOBS.name in str(error.orig):
            raise QueueError(
                f"there is no table {JOBS.name}: import JobRecord of chassis.jobs in "
                "models/__init__.py, autogenerate a revision and migrate"
            ) from error
        raise
