"""Rows of the table of jobs, as they may stand there."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from chassis.jobs import JobRecord, JobState

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def make_job(state: JobState = JobState.WAITING, **columns: Any) -> JobRecord:
    ended = state not in (JobState.WAITING, JobState.RUNNING)
    values: dict[str, Any] = {
        "name": "send_receipt",
        "queue": "default",
        "priority": 0,
        "arguments": {"order_id": 7},
        "context": {"X-Request-ID": "ada"},
        "state": state,
        "run_at": NOW,
        "attempts": 0,
        "fence": 0,
        "created_at": NOW,
        "finished_at": NOW if ended else None,
    }
    return JobRecord(**values | columns)


async def store(session: AsyncSession, *jobs: JobRecord) -> None:
    for job in jobs:
        session.add(job)
        await session.flush()
    await session.commit()
