"""The metrics of jobs: what runs in this process, and what stands in the table."""

from datetime import UTC, datetime, timedelta

import pytest
from chassis_job_records import make_job, store
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from chassis import ChassisSettings
from chassis.db import open_sessions
from chassis.jobs import JobState

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
