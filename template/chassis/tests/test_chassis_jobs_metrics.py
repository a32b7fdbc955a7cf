"""The metrics of jobs: what runs in this process, and what stands in the table."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from chassis_job_records import make_job, store
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from chassis import ChassisSettings, create_app
from chassis.db import open_sessions, session_scope
from chassis.jobs import JobRecord, JobState, job

pytest.importorskip("prometheus_client")

from prometheus_client import REGISTRY

from chassis.jobs.metrics import job_metrics


def sample(metric: str, /, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(metric, labels)


def test_a_run_is_counted_by_its_outcome() -> None:
    job_metrics().observe("send", "done", 0.2)
    job_metrics().observe("send", "dead", 0.2)
    assert sample("job_runs_total", name="send", outcome="done") == 1
    assert sample("job_runs_total", name="send", outcome="dead") == 1
    assert sample("job_duration_seconds_count", name="send") == 2


@job(retries=1)
async def print_page(page: int) -> None:
    if page > 1:
        raise ValueError(page)


@pytest.mark.usefixtures("jobs_table")
async def test_an_application_counts_the_runs_of_its_worker(settings: ChassisSettings) -> None:
    measured = settings.model_copy(update={"metrics_enabled": True, "jobs_in_server": False})
    app = create_app(measured, package="sample", jobs=[print_page])
    async with app.router.lifespan_context(app), open_sessions(settings) as sessions:
        async with session_scope(sessions.write) as session:
            for page in (1, 2):
                await print_page.enqueue(session, page=page)
            await session.commit()
        await app.jobs.worker.run_due()  # type: ignore[attr-defined]
    assert sample("job_runs_total", name="print_page", outcome="done") == 1
    assert sample("job_runs_total", name="print_page", outcome="retried") == 1


@pytest.mark.usefixtures("jobs_table")
async def test_a_server_deletes_old_jobs_and_is_ready(
    settings: ChassisSettings, session: AsyncSession
) -> None:
    await store(session, make_job(JobState.DONE), make_job(JobState.DEAD))
    app = create_app(settings, package="sample", jobs=[print_page])
    async with app.router.lifespan_context(app), asyncio.timeout(20):
        while await session.scalar(select(func.count(JobRecord.id))):
            await session.rollback()
            await asyncio.sleep(0.02)
        assert {"jobs", "clean-up of jobs"} <= app.state.readiness_checks.keys()


@pytest.mark.usefixtures("jobs_table")
async def test_the_table_is_read(
    settings: ChassisSettings, session: AsyncSession, engine: AsyncEngine
) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    await store(
        session,
        make_job(name="mail", run_at=hour_ago),
        make_job(JobState.RUNNING, name="mail"),
        make_job(JobState.DEAD, name="mail"),
    )
    async with open_sessions(settings) as sessions:
        await job_metrics().refresh(sessions)
        assert (sample("jobs_due", name="mail"), sample("jobs_dead")) == (1, 1)
        assert sample("jobs_running", name="mail") == 1
        assert 3600 <= (sample("jobs_oldest_due_seconds", name="mail") or 0) < 3700

        async with engine.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM jobs")
        await job_metrics().refresh(sessions)
        for gauge in ("jobs_due", "jobs_running", "jobs_oldest_due_seconds"):
            assert sample(gauge, name="mail") == 0
