"""The jobs that were enqueued in a test, which run when it says so."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.sessions import Sessions, session_scope
from .clients import require_commits

if TYPE_CHECKING:
    from ..jobs.job import AnyJob
    from ..jobs.worker import Worker


class Jobs:
    """The jobs of the started application."""

    def __init__(
        self, worker: "Worker", sessions: Sessions, own_sessions: Sequence[AsyncSession]
    ) -> None:
        self._worker = worker
        self._sessions = sessions
        self._own_sessions = own_sessions
        self._ticks: dict[str, datetime] = {}

    async def waiting(self, job: "AnyJob") -> list[dict[str, Any]]:
        """Return the arguments of what waits of a job, the oldest first."""
        from ..jobs.model import JobRecord, JobState

        waiting = select(JobRecord.arguments).filter_by(name=job.name, state=JobState.WAITING)
        async with session_scope(self._sessions.read) as session:
            return list(await session.scalars(waiting.order_by(JobRecord.id)))

    async def run_all(self) -> int:
        """Run what is due, and what that enqueues, until nothing is. Return how many ran.

        Raise what a job raised, in a group if several did; by then it waits for its retry, or is
        dead.
        """
        require_commits(self._own_sessions, "jobs run")
        ended = await self._worker.run_due()
        errors = [execution.error for execution in ended if execution.error is not None]
        if len(errors) > 1:
            raise BaseExceptionGroup("jobs have failed", errors)
        if errors:
            raise errors[0]
        return len(ended)

    async def tick(self, job: "AnyJob") -> datetime:
        """Enqueue a job as at the next tick of its schedule, and return that, by its clock.

        The call after that is of the tick after that. The job runs in `run_all`.
        """
        from ..jobs.schedule import enqueue_due, register_schedules

        require_commits(self._own_sessions, "the clock ticks")
        if job.schedule is None:
            raise ValueError(f"the job {job.name} has no schedule: write @every(…) above its @job")
        scheduled, now = [(job, job.schedule)], datetime.now(UTC)
        await register_schedules(scheduled, self._sessions, now)
        tick = self._ticks[job.name] = job.schedule.find_next(self._ticks.get(job.name, now))
        await enqueue_due(scheduled, self._sessions, tick)
        return tick.astimezone(job.schedule.timezone)

    async def move_time(self, step: timedelta) -> None:
        """Let time pass for what waits: it is due so much earlier."""
        from ..jobs.model import JobRecord, JobState

        require_commits(self._own_sessions, "the time is moved")
        async with session_scope(self._sessions.write) as session:
            for record in await session.scalars(
                select(JobRecord).filter_by(state=JobState.WAITING)
            ):
                record.run_at -= step
            await session.commit()


@pytest.fixture
async def jobs(app: FastAPI, make_client: object, _sessions: list[AsyncSession]) -> Jobs:
    """Return the jobs of the started application: `waiting(send_receipt)`, `run_all()` …"""
    registry = getattr(app, "jobs", None)
    if registry is None:
        pytest.fail("the application has no jobs: create_app(…, jobs=(…,)) names them")
    return Jobs(registry.worker, app.state.sessions, _sessions)
