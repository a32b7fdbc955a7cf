"""What `doctor` says of jobs: whether somebody works, what is stuck, what is dead."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.session_factories import open_sessions
from ..db.sessions import session_scope
from ..settings import ChassisSettings
from .report import Finding

# Longer than a worker that is alive leaves anything, unless it has too much to do.
LATE = timedelta(minutes=5)
_WORK_ADVICE = (
    "run the command work, or the server with APP_JOBS_IN_SERVER=true; if they run, look whether "
    "create_app(jobs=…) still has a job of this name"
)
_MORE_ADVICE = "run more workers, or raise APP_JOBS_CONCURRENCY"
_DEAD_ADVICE = "look at them by jobs list --state=dead, put right what failed, then jobs retry ID"


async def examine_jobs(settings: ChassisSettings) -> AsyncIterator[Finding]:
    """Examine the table of jobs; a service without one has no finding."""
    async with open_sessions(settings) as sessions, session_scope(sessions.read) as session:
        connection = await session.connection()
        if await connection.run_sync(_has_jobs):
            async for finding in _examine_table(session):
                yield finding


def _has_jobs(connection: Connection) -> bool:
    """Return whether the table is there, and is no other one of that name."""
    inspector = inspect(connection)
    if not inspector.has_table("jobs"):
        return False
    return {"fence", "lease_until"} <= {column["name"] for column in inspector.get_columns("jobs")}


async def _examine_table(session: AsyncSession) -> AsyncIterator[Finding]:
    from ..jobs.records import count_dead, count_jobs, count_lost, find_last_start

    now = datetime.now(UTC)
    counts = await count_jobs(session)
    due, running = sum(one.due for one in counts), sum(one.running for one in counts)
    yield Finding("ok", "jobs", f"{due} due, {running} running")
    for count in counts:
        if count.oldest and count.oldest < now - LATE:
            subject = f"jobs, {count.name}"
            message = f"{count.due} due, the oldest since {count.oldest:%Y-%m-%d %H:%M} UTC"
            last_start = await find_last_start(session, count.name)
            if last_start is None or last_start < now - LATE:
                yield Finding("problem", subject, f"{message}; nobody begins one", _WORK_ADVICE)
            else:
                yield Finding("warning", subject, f"{message}; more than is done", _MORE_ADVICE)
    if lost := await count_lost(session, now - LATE):
        message = f"{lost} run by workers that died, and nobody takes them over"
        yield Finding("problem", "jobs, stuck", message, _WORK_ADVICE)
    if dead := await count_dead(session):
        yield Finding("warning", "jobs, dead", f"{dead} failed for the last time", _DEAD_ADVICE)
